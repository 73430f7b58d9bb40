"""The part of item-kNN that an edge carries: its files in a run, and scores with its gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.evaluation.ranking import ScoreUsers
from tierline_cloud.models.baselines import DECAY, WINDOW, ItemKnn
from tierline_serving.neighbours import NeighbourTable, starts_of

PARTS = ("counts", "ids", "codes", "levels")


def edge_neighbours(
    knn: ItemKnn, train: Sequences, *, each: float, weight: float = 1.0, floor: float = 1e-3
) -> NeighbourTable:
    """``each`` neighbours an item on average, those of items that are met often first."""
    return NeighbourTable.pruned(
        knn.starts,
        knn.neighbours,
        knn.weights,
        asked=train.popularity(),
        pairs=round(each * knn.n_items),
        weight=weight,
        floor=floor,
        decay=DECAY,
        window=WINDOW,
    )


def boosted(
    scores: ScoreUsers, histories: Sequences, neighbours: NeighbourTable | None
) -> ScoreUsers:
    """The network's scores and what the edge's neighbours, if any, add to them."""
    if neighbours is None:
        return scores

    def both(users: Ids) -> NDArray[np.float32]:
        block = np.array(scores(users), np.float32)
        neighbours.boosts([histories.of(int(user)) for user in users]).add_to(block)
        return block

    return both


def gains_document(neighbours: NeighbourTable) -> dict[str, float | int]:
    """What a manifest and a stage say of the table beside its files."""
    return {
        "weight": neighbours.weight,
        "decay": neighbours.decay,
        "window": neighbours.window,
        "floor": neighbours.floor,
    }


def save_neighbours(folder: Path, neighbours: NeighbourTable) -> None:
    """Write the table's arrays into a stage's folder, as a bundle holds them."""
    for part in PARTS:
        np.save(neighbours_file(folder, part), getattr(neighbours, part))


def neighbours_file(folder: Path, part: str) -> Path:
    """Where ``save_neighbours`` puts one of PARTS."""
    return folder / f"neighbours.{part}.npy"


def load_neighbours(folder: Path, gains: dict[str, float | int]) -> NeighbourTable:
    """Read what ``save_neighbours`` wrote; ``gains`` is its ``gains_document``."""
    counts, ids, codes, levels = (np.load(neighbours_file(folder, part)) for part in PARTS)
    return NeighbourTable(
        starts=starts_of(counts),
        ids=ids,
        codes=codes,
        levels=levels,
        weight=float(gains["weight"]),
        decay=float(gains["decay"]),
        window=int(gains["window"]),
        floor=float(gains["floor"]),
    )
