"""How to train: epochs, batches, rates, when to stop, and in which precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """``minutes`` bounds the training time across resumptions; None: no bound. ``precision`` is
    that of the encoder's products; bfloat16 trains on CUDA only (on CPUs it is slower), and the
    loss over the catalogue, the weights and their updates stay in float32."""

    epochs: int = 120
    batch: int = 512  # users
    rate: float = 1e-3
    weight_decay: float = 1e-8
    evaluate_every: int = 5  # epochs
    patience: int = 3  # evaluations without improvement
    minutes: float | None = None
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be positive or None, got {self.minutes}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision {self.precision!r} is none of {', '.join(sorted(PRECISIONS))}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a stage's key; float32 goes without saying, as before there was a
        choice."""
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        return values
