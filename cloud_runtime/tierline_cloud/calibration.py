"""Teach the edge to foresee its disagreement with the cloud, and choose when it should ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tierline_cloud.data.sequences import Ids
from tierline_cloud.export import Floats, feeds
from tierline_cloud.models.edge import EdgeModel, head_features

TARGET_ESCALATION = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """How the uncertainty head is trained: whole-batch Adam, the best of the held-out fifth."""

    steps: int = 600
    rate: float = 5e-3
    weight_decay: float = 1e-2
    held_out: float = 0.2
    seed: int = 0


def train_head(
    model: EdgeModel, ids: Ids, table: Floats, loss: NDArray[np.float64], config: HeadConfig
) -> float:
    """Fit ``model.head`` to L_agree of these users (ids [users, L] left-padded); the encoder is
    left alone. Returns the held-out mean squared error."""
    features = _features(model, ids, table)
    target = torch.from_numpy(loss.astype(np.float32))
    order = torch.from_numpy(np.random.default_rng(config.seed).permutation(len(ids)))
    cut = max(1, int(len(ids) * config.held_out))
    judge, learn = order[:cut], order[cut:]
    torch.manual_seed(config.seed)
    head = model.head
    head.standardise(features[learn])
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    best, weights = float("inf"), head.state_dict()
    for _ in range(config.steps):
        optimiser.zero_grad()
        functional.mse_loss(head(features[learn]), target[learn]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            error = functional.mse_loss(head(features[judge]), target[judge]).item()
        if error < best:
            best = error
            weights = {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(weights)
    return best


def threshold_for(uncertainty: NDArray[np.float64], escalation: float) -> float:
    """The uncertainty above which the given share of calibration users lies."""
    if not 0 <= escalation <= 1:
        raise ValueError(f"escalation must be in [0, 1], got {escalation}")
    if not uncertainty.size:
        raise ValueError("no calibration users")
    return float(np.quantile(uncertainty, 1.0 - escalation, method="higher"))


def _features(model: EdgeModel, ids: Ids, table: Floats) -> torch.Tensor:
    parts = []
    with torch.no_grad():
        for start in range(0, len(ids), 1024):
            rows = {
                name: torch.from_numpy(value)
                for name, value in feeds(ids[start : start + 1024], table).items()
            }
            hidden = model.sasrec.encode(rows["embedded"], rows["mask"])
            parts.append(head_features(rows["embedded"], rows["mask"], hidden))
    return torch.cat(parts)
