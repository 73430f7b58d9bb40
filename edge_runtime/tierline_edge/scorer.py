"""Makes the scorer a verified bundle asks for."""

from __future__ import annotations

from tierline import BundleRefused
from tierline_edge.sequence import SequenceScorer
from tierline_edge.session import Session
from tierline_edge.tensor import TensorScorer
from tierline_serving.bundle import Bundle
from tierline_serving.golden import check_golden

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
    session = Session(bundle.model_bytes(), provider=provider, threads=threads)
    scorer: EdgeScorer
    if manifest.kind == "sequence":
        scorer = SequenceScorer(bundle, session)
    else:
        scorer = TensorScorer(bundle, session)
    check_golden(bundle, scorer)
    return scorer
