"""Several SASRecs served as one: their weighted scores, as one product of longer rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tierline_cloud.models.sasrec import SASRec, SASRecConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """Its members' shapes and the share of each in the score. Raises ValueError when there is none,
    or their catalogues differ, or shares are not positive."""

    members: tuple[SASRecConfig, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.members or len(self.members) != len(self.shares):
            raise ValueError(f"{len(self.members)} members and {len(self.shares)} shares")
        if len({member.n_items for member in self.members}) > 1:
            raise ValueError("the members have catalogues of different size")
        if not all(0 < share < float("inf") for share in self.shares):
            raise ValueError(f"shares must be positive, got {self.shares}")

    @property
    def n_items(self) -> int:
        return self.members[0].n_items

    @property
    def dim(self) -> int:
        """Numbers in a state: those of all members side by side."""
        return sum(member.dim for member in self.members)

    @property
    def max_history(self) -> int:
        return max(member.max_history for member in self.members)

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Plain values, which ``from_json`` reads."""
        members = [member.to_json() for member in self.members]
        return {"members": members, "shares": list(self.shares)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> EnsembleConfig:
        """Raises TypeError or ValueError for what is no such config."""
        if set(document) != {"members", "shares"}:
            raise ValueError(f"an ensemble has members and shares, not {sorted(document)}")
        members = tuple(SASRecConfig(**member) for member in document["members"])
        return cls(members=members, shares=tuple(float(share) for share in document["shares"]))


class Ensemble(nn.Module):
    """The methods mean what SASRec's of the same name do. The geometric mean of the members'
    distributions, when the shares sum to 1: log-probabilities add, and normalisers move no rank."""

    def __init__(self, config: EnsembleConfig, members: Sequence[SASRec] | None = None) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(members or (SASRec(member) for member in config.members))

    @property
    def table(self) -> Tensor:
        """The item rows of all members side by side, [n_items + 1, dim]."""
        return torch.cat([member.table for member in self._networks], dim=1)

    def hidden(self, ids: Tensor) -> Tensor:
        """ids int64 [B, L], left-padded with 0 → the last state [B, dim]."""
        return self._weighted([member.hidden(ids) for member in self._networks])

    def all_states(self, ids: Tensor) -> Tensor:
        """The state after every position: int64 [B, L] → [B, L, dim]."""
        return self._weighted([member.all_states(ids) for member in self._networks])

    @property
    def _networks(self) -> list[SASRec]:
        return [member for member in self.members if isinstance(member, SASRec)]

    def _weighted(self, states: list[Tensor]) -> Tensor:
        shares = self.config.shares
        return torch.cat(
            [share * state for share, state in zip(shares, states, strict=True)], dim=-1
        )
