"""Serves real tiny bundles and one plain model a datatype: protocol_server.py FOLDER SETTINGS_JSON.

FOLDER gets the bundles. While it holds a file `broken`, a model loaded anew is refused; while it
holds a file `second`, the model `taste` is loaded in its version 2.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "edge"))

import tiny_bundles

from tierline import BundleRefused
from tierline.wire import ScoreReply, ScoreRequest
from tierline_edge.scorer import load_scorer
from tierline_serving.access.tls import Tls
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.manifest import DTYPES, TensorSpec
from tierline_serving.requests import TensorRequests
from tierline_serving.scorer import ModelInfo
from tierline_serving.server import serve
from tierline_serving.settings import ServerSettings
from tierline_serving.shelf import Loaded, PlainShelf, Shelf
from tierline_serving.signing import Trust

WIDTH = 2  # numbers a row


class SumScorer:
    """scores[row] = the row's sum + the sum of the query's ``bias``, in any datatype."""

    def __init__(self, dtype: str, *, has_query: bool = True) -> None:
        specs = [TensorSpec(name="x", dtype=dtype, shape=("rows", WIDTH), role="candidate")]
        if has_query:
            specs.append(TensorSpec(name="bias", dtype=dtype, shape=(WIDTH,), role="query"))
        inputs = tuple(
            {"name": s.name, "dtype": s.dtype, "shape": list(s.shape), "role": s.role}
            for s in specs
        )
        self.info = ModelInfo(
            name=f"sum_{dtype}" if has_query else "alone",
            bundle="7@0123456789ab",
            kind="tensor",
            tier="edge",
            engine="numpy",
            kernels="none",
            inputs=inputs,
        )
        # Any: it asks a manifest for nothing but its inputs.
        manifest: Any = SimpleNamespace(inputs=tuple(specs))
        self._requests = TensorRequests(manifest)
        self.validate = self._requests.validate
        self.rows = self._requests.rows

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return [self._score(request) for request in requests]

    def close(self) -> None:
        pass

    def _score(self, request: ScoreRequest) -> ScoreReply:
        assert request.candidates is not None
        rows = request.candidates["x"].astype(np.float64).sum(axis=1)
        bias = sum(float(a.astype(np.float64).sum()) for a in request.query.values())
        scores = (rows + bias).astype(np.float32)
        return ScoreReply(model=self.info.name, bundle=self.info.bundle, scores=scores)


def bundles(folder: Path) -> dict[str, Bundle]:
    """The two real models, and the second version of one."""
    return {
        "ranker": tiny_bundles.write_sequence(folder),
        "taste": tiny_bundles.write_tensor(folder),
        "second": tiny_bundles.write_tensor(folder, version="2"),
    }


def main() -> int:
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    written = bundles(folder)
    trust = Trust.from_files([], allow_unsigned=True)

    def load(name: str) -> Loaded:
        if (folder / "broken").exists():
            raise BundleRefused("the bundle is broken, as the test wants it")
        chosen = "second" if name == "taste" and (folder / "second").exists() else name
        scorer = load_scorer(open_bundle(written[chosen].path, trust), threads=1)
        return Loaded(scorer=scorer)

    for name in ("keys", "audit"):
        if name in options:
            options[name] = Path(options[name])
    if "tls" in options:
        options["tls"] = Tls(**{name: Path(path) for name, path in options["tls"].items()})
    scorers = [
        *(load(name).scorer for name in ("ranker", "taste")),
        *(SumScorer(dtype) for dtype in DTYPES),
        SumScorer("float32", has_query=False),
    ]
    shelves: dict[str, Shelf] = {
        name: PlainShelf(functools.partial(load, name)) for name in ("ranker", "taste")
    }
    return serve(scorers, ServerSettings(**options), shelves=shelves)


if __name__ == "__main__":
    sys.exit(main())
