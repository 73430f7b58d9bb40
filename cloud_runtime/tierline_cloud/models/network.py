"""What every next-item network is to the factory: an item table, states of histories, a shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.models.two_tower import TwoTower, TwoTowerConfig

ARCHITECTURES = ("sasrec", "two-tower")
Network = SASRec | TwoTower
Shape = SASRecConfig | TwoTowerConfig


def make_shape(architecture: str, **values: Any) -> Shape:
    """The shape of this architecture out of a recipe's values; what it has no use for is left out.
    Raises ValueError for another architecture."""
    if architecture == "sasrec":
        return SASRecConfig(**values)
    if architecture == "two-tower":
        return TwoTowerConfig(
            n_items=values["n_items"],
            dim=values["dim"],
            layers=values["blocks"],
            max_history=values["max_history"],
            dropout=values["dropout"],
        )
    raise ValueError(f"architecture {architecture!r} is none of {', '.join(ARCHITECTURES)}")


def build(shape: Shape) -> Network:
    """An untrained network of this shape."""
    return SASRec(shape) if isinstance(shape, SASRecConfig) else TwoTower(shape)


def with_rows(network: Network, rows: Tensor) -> dict[str, Tensor]:
    """The network's own weights, but for item rows ``rows`` [n_items + 1, d], brought to the length
    its own rows have: what comes after them was initialised for that."""
    weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    fresh = weights["table"]
    if rows.shape != fresh.shape:
        raise ValueError(f"expected rows {list(fresh.shape)}, got {list(rows.shape)}")
    spread = rows[1:].std().clamp_min(1e-12)
    weights["table"] = rows * (fresh[1:].std() / spread)
    weights["table"][0] = 0.0
    return weights
