"""What an edge scorer tells clients about its model."""

from __future__ import annotations

from dataclasses import asdict

from tierline_edge.session import Session
from tierline_serving.bundle import Bundle
from tierline_serving.certified import chances_of, told
from tierline_serving.scorer import ModelInfo


def describe(bundle: Bundle, session: Session, *, kernels: str) -> ModelInfo:
    """The description of ``GET /v1/models/{name}``, with the choices made for this machine."""
    manifest = bundle.manifest
    head, sequence = manifest.uncertainty, manifest.sequence
    carried = None if sequence is None else sequence.carried
    return ModelInfo(
        name=manifest.model,
        bundle=bundle.id,
        kind=manifest.kind,
        tier=manifest.tier,
        engine=f"onnxruntime {session.provider}",
        kernels=kernels,
        inputs=tuple(asdict(spec) for spec in manifest.inputs),
        threshold=None if head is None else head.threshold,
        details={
            "precision": manifest.runtime.precision,
            "threads": session.threads,
            "signed_by": bundle.signed_by,
            "items": None if sequence is None else sequence.items,
            **({} if carried is None else {"carried": carried.items}),
            **told(manifest),
            "chances": chances_of(manifest),
        },
    )
