"""Two towers: a user is the weighted mean of the items seen, moved by layers; items are rows.

With no layers it is matrix factorisation whose users are made of their items (FISM: Kabbur, Ning &
Karypis 2013, with weights learned by age), so that a user unseen in training has a state too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowerConfig:
    """The shape of a two-tower network. Raises ValueError for sizes below their least."""

    n_items: int
    dim: int = 64
    layers: int = 1  # of the user tower; 0: matrix factorisation
    max_history: int = 50
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("n_items", 1), ("dim", 1), ("layers", 0), ("max_history", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def to_json(self) -> dict[str, int | float | str]:
        """Plain values, with the architecture's name."""
        return {"architecture": "two-tower", **asdict(self)}


class TwoTower(nn.Module):
    """Histories are left-padded with 0; ages count from the end. ``table`` [n_items + 1, d] has row
    0 all zeros. The methods mean what SASRec's of the same name do."""

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.zeros(config.n_items + 1, config.dim))
        # Logarithms of the weights by age, 0 the newest: at first each step back counts 0.7 times.
        self.ages = nn.Parameter(-0.35 * torch.arange(config.max_history, dtype=torch.float32))
        self.layers = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_normal_(self.table)
        with torch.no_grad():
            self.table[0] = 0.0

    def hidden(self, ids: Tensor) -> Tensor:
        """ids int64 [B, L], left-padded with 0, L ≤ max_history → the last state [B, d]."""
        return self.encode(functional.embedding(ids, self.table), (ids > 0).to(self.table.dtype))

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Item rows [B, L, d] and mask [B, L] (1 = real) → the last state [B, d]."""
        weights = self.ages[: embedded.shape[1]].flip(0).exp() * mask
        weights = weights / (weights.sum(dim=1, keepdim=True) + 1e-6)
        return self._lift((embedded * weights[..., None]).sum(dim=1))

    def all_states(self, ids: Tensor) -> Tensor:
        """The state after every position, for training: int64 [B, L] → [B, L, d]."""
        length = ids.shape[1]
        mask = (ids > 0).to(self.table.dtype)
        places = torch.arange(length, device=ids.device)
        age = places[:, None] - places[None, :]
        seen = self.ages[age.clamp_min(0)].exp() * (age >= 0)
        weights = seen[None] * mask[:, None, :]
        weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-6)
        return self._lift(self.dropout(weights @ functional.embedding(ids, self.table)))

    def _lift(self, mean: Tensor) -> Tensor:
        x = mean
        for layer in self.layers:
            x = x + self.dropout(functional.relu(layer(x)))
        # Alone (matrix factorisation), the norm only makes a temperature of the state's length.
        result: Tensor = self.last_norm(x)
        return result
