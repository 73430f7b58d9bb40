"""Click probability from dense and sparse features: pairwise products and layers over embeddings.

DeepFM (Guo et al. 2017, arXiv 1703.04247), with the dense features as one more embedding, and a
temperature and shift fitted after training (Platt 1999), so that its scores are probabilities.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickConfig:
    """The shape of a click model; ``buckets`` ids a sparse field, beside 0 for missing."""

    dense: int
    sparse: int
    buckets: int
    dim: int = 8
    width: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("dense", 0), ("sparse", 0), ("buckets", 1), ("dim", 1), ("width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.dense + self.sparse < 1:
            raise ValueError("a click model needs at least one feature")

    def to_json(self) -> dict[str, int | float]:
        """Plain values: ``ClickConfig(**config.to_json())`` is the same config."""
        return asdict(self)


class ClickModel(nn.Module):
    """dense float32 [rows, D] as they are (NaN: missing) and sparse int64 [rows, S] → the
    probability of a click, float32 [rows]."""

    def __init__(self, config: ClickConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.sparse * (config.buckets + 1)
        self.embeddings = nn.Embedding(max(rows, 1), config.dim)
        self.weights = nn.Embedding(max(rows, 1), 1)
        nn.init.normal_(self.embeddings.weight, std=0.05)
        nn.init.zeros_(self.weights.weight)
        self.register_buffer("starts", torch.arange(config.sparse) * (config.buckets + 1))
        self.register_buffer("mean", torch.zeros(config.dense))
        self.register_buffer("spread", torch.ones(config.dense))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))
        self.lift = nn.Linear(config.dense, config.dim) if config.dense else None
        self.straight = nn.Linear(config.dense, 1) if config.dense else None
        self.bias = nn.Parameter(torch.zeros(()))
        inner = config.dense + config.sparse * config.dim
        self.layers = nn.Sequential(
            nn.Linear(inner, config.width), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(config.width, config.width), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(config.width, 1),
        )  # fmt: skip

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        assert isinstance(self.slope, Tensor)
        assert isinstance(self.shift, Tensor)
        result: Tensor = torch.sigmoid(self.slope * self.logits(dense, sparse) + self.shift)
        return result

    def logits(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """The log odds before calibration, float32 [rows]."""
        assert isinstance(self.starts, Tensor)
        level = self.standardised(dense)
        places = sparse + self.starts
        fields = self.embeddings(places)
        total = self.bias + self.weights(places).sum(dim=(1, 2))
        vectors = fields
        if self.lift is not None and self.straight is not None:
            vectors = torch.cat((fields, self.lift(level)[:, None]), dim=1)
            total = total + self.straight(level)[:, 0]
        # All pairwise products at once: half of (sum² − sum of squares), Rendle 2010.
        products = 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1)
        deep = self.layers(torch.cat((level, fields.flatten(1)), dim=1))[:, 0]
        result: Tensor = total + products + deep
        return result

    def standardised(self, dense: Tensor) -> Tensor:
        """sign(x)·log(1 + |x|) by training mean and spread; missing values are the mean."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.spread, Tensor)
        level = (squeezed(dense) - self.mean) / self.spread
        return torch.where(torch.isnan(dense), torch.zeros_like(level), level)


def squeezed(dense: Tensor) -> Tensor:
    """Counts span magnitudes: their logarithm, either side of zero."""
    return torch.sign(dense) * torch.log1p(torch.abs(dense))


def click_model(**config: int | float) -> ClickModel:
    """What a cloud bundle names as its factory (`--allow-module tierline_cloud`)."""
    return ClickModel(ClickConfig(**config))  # type: ignore[arg-type]
