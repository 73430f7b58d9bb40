"""Makes the torch scorer a verified bundle asks for."""

from __future__ import annotations

from collections.abc import Collection

import torch

from tierline import BundleRefused
from tierline_cloud.serve.sequence import SequenceScorer
from tierline_cloud.serve.tensor import TensorScorer
from tierline_cloud.text.scorer import TextScorer
from tierline_serving.bundle import Bundle
from tierline_serving.cores import choose_threads
from tierline_serving.golden import check_golden

TorchScorer = SequenceScorer | TensorScorer | TextScorer


def load_scorer(
    bundle: Bundle, *, threads: int | None = None, allowed: Collection[str] = ()
) -> TorchScorer:
    """Load a bundle and ask it its golden requests. ``allowed`` names the packages whose code a
    bundle may bring; ``threads`` (None: the usable cores) hold for all of torch in this process.
    Raises BundleRefused, ConfigurationError or MissingExtra."""
    if bundle.manifest.runtime.engine != "torch":
        raise BundleRefused(
            f"bundle {bundle.id} runs on {bundle.manifest.runtime.engine}; this serves torch "
            "bundles, `tierline edge serve` runs ONNX ones"
        )
    torch.set_num_threads(choose_threads(threads))
    scorer: TorchScorer
    if bundle.manifest.kind == "sequence":
        scorer = SequenceScorer(bundle)
    elif bundle.manifest.kind == "text":
        scorer = TextScorer(bundle)
    else:
        scorer = TensorScorer(bundle, allowed)
    check_golden(bundle, scorer)
    return scorer
