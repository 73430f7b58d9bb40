"""A made-up shop: power-law items in clusters, users of a style, each style with its habits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopConfig:
    """How large the shop is and how strongly habits rule it."""

    users: int = 4000
    items: int = 1500
    clusters: int = 25
    styles: int = 4
    mean_length: float = 14.0
    habit: float = 0.8  # chance that the next cluster follows from the last one and the style
    loyalty: float = 0.6  # chance that an item is of the user's own style
    seed: int = 0

    def __post_init__(self) -> None:
        if self.items < 2 * self.clusters * self.styles:
            raise ValueError("items must be at least twice clusters × styles")
        if self.users < 10:
            raise ValueError(f"a shop needs at least 10 users, got {self.users}")


def generate_shop(config: ShopConfig) -> Sequences:
    """Sequences of at least five events each; the same config gives the same shop.

    The next cluster follows from the last one and the user's style, the item from cluster and
    style. A single item tells the style only now and then, the whole history does: pairwise
    co-occurrence explains part of it and a sequence model more.
    """
    rng = np.random.default_rng([config.seed, 1])
    follows = rng.integers(config.clusters, size=(config.clusters, config.styles))
    shelves = _shelves(config)
    lists = [_history(config, rng, follows, shelves) for _ in range(config.users)]
    return Sequences.from_lists(lists, n_items=config.items)


def write_s3rec(sequences: Sequences, path: Path) -> None:
    """Write `user item item …` lines, users numbered from 1."""
    lines = (" ".join(map(str, [user, *items.tolist()])) for user, items in enumerate(sequences, 1))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


_Shelf = tuple[NDArray[np.int64], NDArray[np.float64]]  # item ids, cumulative chances


def _shelves(config: ShopConfig) -> dict[tuple[int, int], _Shelf]:
    """Each (cluster, style) has its items, drawn by a power law (rank^-0.9)."""
    rng = np.random.default_rng([config.seed, 2])
    ids = rng.permutation(config.items) + 1
    shelves = {}
    for number, items in enumerate(np.array_split(ids, config.clusters * config.styles)):
        weights = np.arange(1, items.size + 1) ** -0.9
        shelves[divmod(number, config.styles)] = (items, np.cumsum(weights / weights.sum()))
    return shelves


def _history(
    config: ShopConfig,
    rng: np.random.Generator,
    follows: NDArray[np.int64],
    shelves: dict[tuple[int, int], _Shelf],
) -> list[int]:
    length = 5 + min(60, int(rng.geometric(1.0 / (config.mean_length - 4.0))) - 1)
    style = int(rng.integers(config.styles))
    last = int(rng.integers(config.clusters))
    bought: list[int] = []
    while len(bought) < length:
        habitual = rng.random() < config.habit
        last = int(follows[last, style] if habitual else rng.integers(config.clusters))
        own = rng.random() < config.loyalty
        items, chances = shelves[last, style if own else int(rng.integers(config.styles))]
        item = int(items[min(int(np.searchsorted(chances, rng.random())), items.size - 1)])
        if item not in bought:  # nobody buys the same thing twice here
            bought.append(item)
    return bought
