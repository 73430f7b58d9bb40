"""What both runtimes serve: a scorer answers validated requests in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tierline.wire import ScoreReply, ScoreRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a client may know of the model an endpoint serves (``GET /v1/models/{name}``)."""

    name: str
    bundle: str  # "<version>@<digest12>"
    kind: str  # "sequence" | "tensor" | "text"
    tier: str  # "edge" | "cloud"
    engine: str  # e.g. "onnxruntime CPUExecutionProvider", "torch cpu"
    kernels: str  # which tierline_kernels back end answers: "cpu", "cuda", "reference" or "none"
    inputs: tuple[Mapping[str, object], ...] = ()  # name, dtype, shape, role (query | candidate)
    threshold: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)


class Scorer(Protocol):
    """One loaded bundle. ``validate`` and ``rows`` are cheap and safe from any thread;
    ``score`` is called by one thread at a time."""

    info: ModelInfo

    def validate(self, request: ScoreRequest) -> None:
        """Raise BadRequest with a sentence when this request cannot be scored."""
        ...

    def rows(self, request: ScoreRequest) -> int:
        """The request's cost in candidate rows (at least 1)."""
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Answer each request, in order. A request's answer does not depend on its neighbours.
        Raises ModelFailed when the model fails or answers non-finite scores."""
        ...

    def close(self) -> None: ...
