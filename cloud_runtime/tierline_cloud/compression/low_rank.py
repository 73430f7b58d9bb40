"""Low-rank item tables: fewer columns to store and look up, widened again inside the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tierline_cloud.models.edge import EdgeModel

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """``table ≈ rows @ basis.T + mean`` for every item; padding's row is zero."""

    rows: Floats  # [n + 1, r]
    basis: Floats  # [d, r], orthonormal columns
    mean: Floats  # [d]


def factorise(table: Floats, rank: int) -> LowRank:
    """The best approximation of the item rows (row 0 is padding) about their mean by ``rank``
    directions: a truncated SVD (Eckart & Young 1936). Raises ValueError for a rank that is not
    below the width."""
    width = table.shape[1]
    if not 1 <= rank < width:
        raise ValueError(f"rank must be in 1..{width - 1} for rows of {width}, got {rank}")
    items = table[1:].astype(np.float64)
    mean = items.mean(axis=0)
    centred = items - mean
    _, directions = np.linalg.eigh(centred.T @ centred)
    basis = directions[:, ::-1][:, :rank]
    rows = np.zeros((table.shape[0], rank))
    rows[1:] = centred @ basis
    return LowRank(
        rows=rows.astype(np.float32),
        basis=np.ascontiguousarray(basis.astype(np.float32)),
        mean=mean.astype(np.float32),
    )


class NarrowEdge(nn.Module):
    """An edge model that takes rows of rank r and gives a state of rank r.

    A score is row · state in r dimensions. Of the full product it lacks mean · state, which is the
    same for every item of a request and so moves no rank.
    """

    def __init__(self, edge: EdgeModel, factors: LowRank) -> None:
        super().__init__()
        self.edge = edge
        self.basis = nn.Parameter(torch.from_numpy(factors.basis))
        self.mean = nn.Parameter(torch.from_numpy(factors.mean))

    def forward(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """embedded [B, L, r], mask [B, L] → hidden [B, r], uncertainty [B]."""
        wide = (embedded @ self.basis.T + self.mean) * mask[..., None]
        hidden, uncertainty = self.edge(wide, mask)
        return hidden @ self.basis, uncertainty
