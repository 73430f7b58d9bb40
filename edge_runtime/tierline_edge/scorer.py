"""Makes the scorer a verified bundle asks for."""

from __future__ import annotations

import numpy as np

from tierline import BundleRefused, ModelFailed
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_edge.sequence import SequenceScorer
from tierline_edge.session import Session
from tierline_edge.tensor import TensorScorer
from tierline_serving.bundle import Bundle
from tierline_serving.golden import check_golden
from tierline_serving.requests import HISTORY

EdgeScorer = SequenceScorer | TensorScorer

_FIRST = np.array([1], np.int64)  # the one item every catalogue has


def load_scorer(bundle: Bundle, *, provider: str = "cpu", threads: int | None = None) -> EdgeScorer:
    """Load a bundle and ask it its golden requests. Raises BundleRefused when it is not for the
    edge, does not load, or answers them otherwise than it did where it was built."""
    manifest = bundle.manifest
    if manifest.runtime.engine != "onnx":
        raise BundleRefused(
            f"bundle {bundle.id} runs on {manifest.runtime.engine}; an edge node runs ONNX "
            "bundles, `tierline cloud serve` runs torch ones"
        )
    session = Session(bundle.model_bytes(), provider=provider, threads=threads)
    scorer: EdgeScorer
    if manifest.kind == "sequence":
        scorer = SequenceScorer(bundle, session)
    else:
        scorer = TensorScorer(bundle, session)
    check_golden(bundle, scorer)
    _try_out(bundle, scorer)
    return scorer


def _try_out(bundle: Bundle, scorer: EdgeScorer) -> None:
    """A customer without a history is asked for: it compiles the kernels before traffic does, and
    an encoder that answers NaN for an empty history is refused here. A tensor graph knows no such
    neutral question; only golden requests try it out."""
    if bundle.manifest.kind != "sequence":
        return
    query = {HISTORY: np.zeros(0, np.int64)}
    asked = [
        ScoreRequest(model=bundle.manifest.model, query=query, k=1),
        ScoreRequest(model=bundle.manifest.model, query=query, candidates={CANDIDATE_IDS: _FIRST}),
    ]
    try:
        scorer.score(asked)
    except ModelFailed as error:
        raise BundleRefused(f"bundle {bundle.id}: asked with an empty history: {error}") from error
