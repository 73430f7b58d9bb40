"""How to train: epochs, batches, rates, when to stop, and in which precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRODUCTS = ("float32", "fastest")
SCHEDULES = ("constant", "linear")
HISTORIES, EVENTS = EXAMPLES = ("histories", "events")
LEAST_RATE = 0.05  # of the rate, at the end of a linear schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """``minutes`` bounds the training time across resumptions; None: no bound. ``precision`` is
    that of the encoder's products; bfloat16 trains on CUDA only (on CPUs it is slower), and the
    loss over the catalogue, the weights and their updates stay in float32. ``products`` fastest:
    on CPUs with bfloat16 instructions the products of a listwise loss are in bfloat16 (measured on
    one core: 1.3 to 1.7 times as fast). ``schedule`` linear: the rate falls to the last epoch.
    ``examples`` of a network that nobody teaches: whole histories, each with all its next items, or
    single events; ``batch`` counts them."""

    epochs: int = 120
    batch: int = 512  # users, or events
    rate: float = 1e-3
    weight_decay: float = 1e-8
    evaluate_every: int = 5  # epochs
    patience: int = 3  # evaluations without improvement
    minutes: float | None = None
    seed: int = 0
    precision: str = "float32"
    products: str = "float32"
    schedule: str = "constant"
    examples: str = HISTORIES

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
        for name, known in (
            ("products", PRODUCTS),
            ("schedule", SCHEDULES),
            ("examples", EXAMPLES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")

    def rate_in(self, epoch: int) -> float:
        """The learning rate of this epoch, the first being 0."""
        if self.schedule == "constant":
            return self.rate
        return self.rate * max(LEAST_RATE, 1.0 - epoch / self.epochs)

    def products_on(self, device: torch.device) -> torch.dtype:
        """The precision of a listwise loss's products on this device."""
        if self.products == "fastest" and device.type == "cpu":
            able = torch.cpu.get_capabilities()
            if able.get("avx512_bf16") or able.get("amx_bf16"):
                return torch.bfloat16
        return torch.float32

    def to_json(self) -> dict[str, Any]:
        """Plain values for a stage's key; what was so before there was a choice goes without
        saying."""
        values = asdict(self)
        for name, usual in (
            ("precision", "float32"),
            ("products", "float32"),
            ("schedule", "constant"),
            ("examples", HISTORIES),
        ):
            if values[name] == usual:
                del values[name]
        return values
