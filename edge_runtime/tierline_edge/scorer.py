"""Makes the scorer a verified bundle asks for."""

from __future__ import annotations

from pathlib import Path

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


def load_scorer(bundle: Bundle, *, provider: str = "cpu", threads: int | None = None) -> EdgeScorer:
    """Load a bundle and ask it its golden requests. Raises BundleRefused when it is not for the
    edge, does not load, or answers them otherwise than it did where it was built."""
    manifest = bundle.manifest
    if manifest.runtime.engine != "onnx":
        raise BundleRefused(
            f"bundle {bundle.id} runs on {manifest.runtime.engine}; an edge node runs ONNX "
            "bundles, `tierline cloud serve` runs torch ones"
        )
    session = Session(_model(bundle), provider=provider, threads=threads)
    try:
        scorer = _make(bundle, session)
    except ModelFailed as error:
        raise BundleRefused(f"bundle {bundle.id}: does not run: {error}") from error
    check_golden(bundle, scorer)
    return scorer


def _model(bundle: Bundle) -> bytes | Path:
    """The graph: from a private copy by its path, so that weights beside it are mapped and no
    second copy of the file stays in memory."""
    entry = bundle.manifest.runtime.entry
    return bundle.file(entry) if bundle.is_private and entry is not None else bundle.model_bytes()


def _make(bundle: Bundle, session: Session) -> EdgeScorer:
    if bundle.manifest.kind == "tensor":
        # Any inputs, any meaning: there is no neutral question; golden requests try it out.
        return TensorScorer(bundle, session)
    scorer = SequenceScorer(bundle, session)
    # A customer without a history: compiles the kernels before traffic does, and shows an encoder
    # that has no finite answer to padding alone.
    query = {HISTORY: np.zeros(0, np.int64)}
    first = {CANDIDATE_IDS: np.array([1], np.int64)}
    name = bundle.manifest.model
    scorer.score(
        [
            ScoreRequest(model=name, query=query, k=1),
            ScoreRequest(model=name, query=query, candidates=first),
        ]
    )
    return scorer
