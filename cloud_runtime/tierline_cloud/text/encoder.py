"""The text encoder: a BERT-shaped transformer in plain torch, for texts of one length at a time.

Nothing is ever padded: texts are encoded in groups of equal token count, so there is no mask, and a
text encoded alone has one shape and one result whoever else asks. Devlin et al., "BERT" (2019);
MiniLM, RoBERTa and DistilBERT differ in size and names only (``weights.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}
_LARGEST: Final = 2**24  # of any size in a config: beyond lies a mistake, not a model


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The sizes of an encoder. Raises ValueError for sizes that make none."""

    vocabulary: int
    dim: int
    layers: int
    heads: int
    hidden: int  # width inside the feed-forward part
    positions: int  # the longest text, in tokens, special ones included
    activation: str = "gelu"
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("vocabulary", "dim", "layers", "heads", "hidden", "positions"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise ValueError(f"{name} must be a whole number from 1 to {_LARGEST}: {value!r}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of {self.heads} heads")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation {self.activation!r} is unknown; known are {known}")
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"epsilon must lie between 0 and 1, got {self.epsilon!r}")

    def to_json(self) -> dict[str, object]:
        """As a manifest's ``runtime.config`` holds it."""
        return asdict(self)


class Encoder(nn.Module):
    """Token ids [B, L] → states [B, L, d], every text of the same length L."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.dim)
        self.positions = nn.Parameter(torch.zeros(config.positions, config.dim))
        self.norm = nn.LayerNorm(config.dim, eps=config.epsilon)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        for layer in self.layers:
            states = layer(states)
        return states


class Layer(nn.Module):
    """Self-attention, then two linear maps; each added to what went in and normalised after."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.activation = ACTIVATIONS[config.activation]
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.mix = nn.Linear(config.dim, config.dim)
        self.mix_norm = nn.LayerNorm(config.dim, eps=config.epsilon)
        self.up = nn.Linear(config.dim, config.hidden)
        self.down = nn.Linear(config.hidden, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=config.epsilon)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        seen = functional.scaled_dot_product_attention(
            self._by_head(self.query(states)),
            self._by_head(self.key(states)),
            self._by_head(self.value(states)),
        )
        seen = seen.transpose(1, 2).reshape(states.shape)
        states = self.mix_norm(states + self.mix(seen))
        after: torch.Tensor = self.norm(states + self.down(self.activation(self.up(states))))
        return after

    def _by_head(self, states: torch.Tensor) -> torch.Tensor:
        """[B, L, d] → [B, heads, L, d / heads]."""
        batch, length, _ = states.shape
        return states.view(batch, length, self.heads, -1).transpose(1, 2)
