"""What a cloud scorer tells clients about its model."""

from __future__ import annotations

from dataclasses import asdict

import torch

from tierline_serving.bundle import Bundle
from tierline_serving.certified import chances_of
from tierline_serving.scorer import ModelInfo


def describe(bundle: Bundle, *, kernels: str) -> ModelInfo:
    """The description of ``GET /v1/models/{name}``, with the choices made for this machine."""
    manifest = bundle.manifest
    return ModelInfo(
        name=manifest.model,
        bundle=bundle.id,
        kind=manifest.kind,
        tier=manifest.tier,
        engine="torch cpu",
        kernels=kernels,
        inputs=tuple(asdict(spec) for spec in manifest.inputs),
        details={
            "architecture": manifest.runtime.architecture or manifest.runtime.factory,
            "threads": torch.get_num_threads(),
            "signed_by": bundle.signed_by,
            "items": None if manifest.sequence is None else manifest.sequence.items,
            "chances": chances_of(manifest),
        },
    )
