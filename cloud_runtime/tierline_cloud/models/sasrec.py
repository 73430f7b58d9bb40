"""SASRec: a causal transformer over a user's items, whose item table also scores the catalogue."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN_KEY_BIAS = -1e9  # finite, so that a row of padding alone stays finite
ABSOLUTE, RELATIVE = POSITIONS = ("absolute", "relative")
FADING = 0.5  # of attention logits a step back, to begin with: item-kNN's weights do as much


@dataclass(frozen=True, slots=True, kw_only=True)
class SASRecConfig:
    """The shape of one SASRec. Raises ValueError when the heads do not divide the dimension."""

    n_items: int
    dim: int = 64
    blocks: int = 2
    heads: int = 1
    max_history: int = 50
    dropout: float = 0.5
    inner: int | None = None  # units of the ReLU layer; None: dim, as many as it reads
    positions: str = ABSOLUTE  # counted from the end; or RELATIVE: how far back a key lies

    def __post_init__(self) -> None:
        for name in ("n_items", "dim", "blocks", "heads", "max_history", "inner_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide dim ({self.dim})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions {self.positions!r} is none of {', '.join(POSITIONS)}")

    @property
    def inner_width(self) -> int:
        """Units of each block's ReLU layer."""
        return self.dim if self.inner is None else self.inner

    def to_json(self) -> dict[str, int | float | str]:
        """Plain values: ``SASRecConfig(**config.to_json())`` is the same config. Absolute positions
        go without saying, as before there was a choice."""
        values = asdict(self)
        if self.positions == ABSOLUTE:
            del values["positions"]
        return {name: value for name, value in values.items() if value is not None}


class Block(nn.Module):
    """Causal attention and a ReLU layer; the query is normalised, keys and values are not."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.query_norm, self.inner_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.output = nn.Linear(dim, dim)
        inner = config.inner_width
        self.widen, self.narrow = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, queries: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, d] and the queries among it [B, Q, d], bias [B, 1, Q or 1, L] → [B, Q, d]."""
        normed = self.query_norm(queries)
        query, key, value = (
            self._split(part) for part in (self.query(normed), self.key(x), self.value(x))
        )
        weights = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        mixed = self.dropout(torch.softmax(weights, dim=-1)) @ value
        mixed = mixed.transpose(1, 2).flatten(2)
        inner = self.inner_norm(normed + self.output(mixed))
        raised = self.dropout(functional.relu(self.widen(inner)))
        result: Tensor = inner + self.dropout(self.narrow(raised))
        return result

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class SASRec(nn.Module):
    """Next-item model. Histories are left-padded with 0. ``table`` [n_items + 1, d] has row 0 all
    zeros. Absolute positions count from the end, so the last item always sits at the same one.
    Relative ones (T5's: Raffel et al. 2020, section 2.1) add a learned bias to the attention
    logits for how far back a key lies, so that every place in a history answers alike."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.zeros(config.n_items + 1, config.dim))
        # The last row is the newest event's either way; relative: a column for each head.
        wide = config.heads if self._relative else config.dim
        self.positions = nn.Parameter(torch.zeros(config.max_history, wide))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.last_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    @property
    def _relative(self) -> bool:
        return self.config.positions == RELATIVE

    def _initialise(self) -> None:
        if self._relative:
            ages = torch.arange(self.config.max_history - 1.0, -1.0, -1.0)
            self.positions.data.copy_(-FADING * ages[:, None])
        else:
            nn.init.xavier_normal_(self.positions)
        nn.init.xavier_normal_(self.table)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.table[0] = 0.0

    def hidden(self, ids: Tensor) -> Tensor:
        """ids int64 [B, L], left-padded with 0, L ≤ max_history → the last state [B, d]."""
        return self.encode(functional.embedding(ids, self.table), (ids > 0).to(self.table.dtype))

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Item rows [B, L, d] and mask [B, L] (1 = real) → the last state [B, d]; a history of
        padding alone gives a finite one. The last block computes the last position only."""
        x = self._enter(embedded, mask)
        real = mask[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, x, self._causal_bias(real)) * mask[..., None]
        bias = (1.0 - real) * HIDDEN_KEY_BIAS
        if self._relative:
            bias = bias + self.positions[-mask.shape[1] :].T[None, :, None, :]
        x = self.blocks[-1](x, x[:, -1:], bias)
        result: Tensor = self.last_norm(x[:, -1])
        return result

    def all_states(self, ids: Tensor) -> Tensor:
        """The state after every position, for training: int64 [B, L] → [B, L, d]."""
        mask = (ids > 0).to(self.table.dtype)
        x = self._enter(functional.embedding(ids, self.table), mask)
        bias = self._causal_bias(mask[:, None, None, :])
        for block in self.blocks:
            x = block(x, x, bias) * mask[..., None]
        result: Tensor = self.last_norm(x)
        return result

    def _enter(self, embedded: Tensor, mask: Tensor) -> Tensor:
        x = embedded * math.sqrt(self.config.dim)
        if not self._relative:
            x = x + self.positions[-embedded.shape[1] :]
        result: Tensor = self.dropout(x) * mask[..., None]
        return result

    def _causal_bias(self, real: Tensor) -> Tensor:
        """[B, 1, 1, L] of real keys → what to add to the attention logits, [B, 1 or H, L, L]."""
        length = real.shape[-1]
        causal = torch.ones(length, length, dtype=real.dtype, device=real.device).tril()
        hidden: Tensor = (1.0 - real * causal) * HIDDEN_KEY_BIAS
        if not self._relative:
            return hidden
        places = torch.arange(length, device=real.device)
        ages = (places[:, None] - places[None, :]).clamp_min(0)
        return hidden + self.positions.flip(0)[ages].permute(2, 0, 1)
