"""A node whose model can be made faulty while it serves: slow, hanging, failing, or wrong.

``python -m tierline_drills.node FAULTS (edge|cloud) serve …`` is ``tierline edge serve`` (or cloud)
with one thing added: before each batch the file FAULTS is read. Absent or empty, nothing is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline import ModelFailed
from tierline.wire import ScoreReply, ScoreRequest
from tierline_drills.proxy.content import damaged
from tierline_serving.bundle import Bundle
from tierline_serving.scorer import ModelInfo
from tierline_serving.serve_options import ServedScorer, add_serve_options, run_server

KINDS = ("slow", "hang", "fail", "nan", "infinite", "short", "wrong", "stale")
HANG = 3600.0  # seconds: longer than any drill
NAP = 0.02  # seconds between two looks whether a hanging model may go on


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the model: of ``bundle`` only, when that is named. ``seconds`` a slow
    batch takes longer; ``share`` of the batches are struck."""

    kind: str
    bundle: str = ""
    seconds: float = 0.0
    share: float = 1.0


def read_fault(text: str) -> Fault | None:
    """The fault a file describes; None for an empty one, and for one that is being written."""
    try:
        value = json.loads(text) if text.strip() else None
    except ValueError:
        return None
    if not isinstance(value, Mapping) or value.get("kind") not in KINDS:
        return None
    return Fault(**{name: value[name] for name in Fault.__slots__ if name in value})


class FaultyScorer:
    """A scorer that does as its fault file says. It says so nowhere: callers must find out."""

    def __init__(
        self,
        inner: ServedScorer,
        read: Callable[[], Fault | None],
        *,
        nap: Callable[[float], None] = time.sleep,
        dice: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._inner, self._read, self._nap, self._dice = inner, read, nap, dice
        self.info: ModelInfo = inner.info

    def validate(self, request: ScoreRequest) -> None:
        """As the model itself."""
        self._inner.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        """As the model itself."""
        return self._inner.rows(request)

    def prior(self) -> NDArray[np.float32] | None:
        """As the model itself."""
        return self._inner.prior()

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Answer the batch, with the fault in it. Raises ModelFailed when told to fail."""
        fault = self._struck()
        if fault is None:
            return self._inner.score(requests)
        if fault.kind == "fail":
            raise ModelFailed("the drill told this model to fail")
        if fault.kind == "slow":
            self._nap(fault.seconds)
        waited = 0.0
        while fault.kind == "hang" and waited < HANG and self._struck() is not None:
            self._nap(NAP)
            waited += NAP
        replies = self._inner.score(requests)
        if fault.kind in ("slow", "hang"):
            return replies
        return [damaged(reply, fault.kind) for reply in replies]

    def close(self) -> None:
        """As the model itself."""
        self._inner.close()

    def _struck(self) -> Fault | None:
        fault = self._read()
        if fault is None or (fault.bundle and fault.bundle not in self.info.bundle):
            return None
        return fault if self._dice() < fault.share else None


def main(argv: Sequence[str]) -> int:
    """The process."""
    from random import random

    place, kind, action, *rest = argv
    if action != "serve" or kind not in ("edge", "cloud"):
        raise SystemExit("usage: python -m tierline_drills.node FAULTS edge|cloud serve …")
    parser = argparse.ArgumentParser(prog="tierline_drills.node")
    add_serve_options(parser, port=0)
    options = parser.parse_args(rest)
    load = _loader(kind, options)

    def read() -> Fault | None:
        try:
            return read_fault(Path(place).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    return run_server(options, lambda bundle: FaultyScorer(load(bundle), read, dice=random))


def _loader(kind: str, options: argparse.Namespace) -> Callable[[Bundle], Any]:
    """What the stock command loads a bundle with."""
    if kind == "edge":
        from tierline_edge.scorer import load_scorer

        return lambda bundle: load_scorer(bundle, provider="cpu", threads=options.threads)
    from tierline_cloud.serve.scorer import load_scorer as load_cloud

    return lambda bundle: load_cloud(bundle, threads=options.threads, allowed=[])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
