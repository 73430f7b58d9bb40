"""A stage of the factory: which items an edge with part of the catalogue carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.evaluation.ranking import ScoreUsers, factor_scores
from tierline_cloud.export import Floats
from tierline_cloud.models.baselines import DECAY, WINDOW, ItemKnn
from tierline_cloud.models.near import boosted
from tierline_cloud.stages import Result, Stage
from tierline_serving.carried import Carried
from tierline_serving.neighbours import NeighbourTable

if TYPE_CHECKING:  # the factory imports this module
    from tierline_cloud.factory import Factory

PARTS = ("ids", "lost")


def choose_items(factory: Factory) -> Stage:
    """The most popular items, what each item of the catalogue loses by that, and above which loss
    a call is doubted first: the recipe's escalation of the router's users are."""
    recipe, split = factory.recipe, factory.split

    def make(folder: Path, key: str) -> Result:
        served = factory.served.neighbours
        assert served is not None  # of a blend
        ids = most_popular(split.train, recipe.carried)
        lost = lost_shares(served.knn, ids)
        asked = split.test_history
        histories = [asked.of(int(user)) for user in factory.groups.router]
        carried = Carried.chosen(ids, lost, decay=DECAY, window=WINDOW, above=0.0)
        shares = carried.lost_of(histories)
        above = float(np.quantile(shares, 1.0 - recipe.escalation, method="higher"))
        for part in PARTS:
            np.save(carried_file(folder, part), getattr(carried, part))
        return {"items": int(ids.size), "above": above, "lost": float(shares.mean())}

    inputs = {"carried": recipe.carried, "escalation": recipe.escalation, "seed": factory.seed}
    return factory.store.run("carried", make, inputs=inputs, after=(factory.blend,))


def load_carried(stage: Stage) -> Carried:
    """What ``choose_items`` left."""
    ids, lost = (np.load(carried_file(stage.folder, part)) for part in PARTS)
    above = float(stage.result["above"])
    return Carried(ids=ids, lost=lost, decay=DECAY, window=WINDOW, above=above)


def carried_file(folder: Path, part: str) -> Path:
    """Where one of PARTS lies in a stage or a bundle."""
    return folder / f"carried.{part}.npy"


def carried_document(carried: Carried) -> dict[str, float | int]:
    """What a manifest says of them beside their files."""
    return {
        "items": int(carried.ids.size),
        "decay": carried.decay,
        "window": carried.window,
        "above": carried.above,
    }


def most_popular(train: Sequences, share: float) -> Ids:
    """The ids of this share of the catalogue, rising; ties to the lowest."""
    count = max(1, round(share * train.n_items))
    found: Ids = np.sort(1 + np.argsort(-train.popularity()[1:], kind="stable")[:count])
    return found


def lost_shares(knn: ItemKnn, ids: Ids) -> NDArray[np.float64]:
    """Of each item [items + 1] the largest part of its neighbours' weights that one item which is
    not among ``ids`` has: how surely the cloud would name something that the edge cannot."""
    missing = np.ones(knn.n_items + 1, np.bool_)
    missing[ids] = False
    owners = np.repeat(np.arange(knn.starts.size - 1), np.diff(knn.starts))
    totals = np.bincount(owners, knn.weights, minlength=knn.n_items + 1)
    parts = knn.weights / np.maximum(totals[owners], np.finfo(np.float64).tiny)
    found = np.zeros(knn.n_items + 1)
    np.maximum.at(found, owners, parts * missing[knn.neighbours])
    return found


def carried_rows(rows: Floats, carried: Carried) -> Floats:
    """Padding's row, those of the carried items, and the mean of all others to stand in for them:
    float32 [carried + 2, d]."""
    others = np.ones(len(rows), np.bool_)
    others[0], others[carried.ids] = False, False
    mean = rows[others].mean(axis=0) if others.any() else np.zeros(rows.shape[1], np.float32)
    return np.concatenate((rows[:1], rows[carried.ids], mean[None])).astype(np.float32)


def carried_neighbours(table: NeighbourTable, carried: Carried) -> NeighbourTable:
    """The pairs both of whose items are carried, by rows."""
    owners = np.repeat(np.arange(table.starts.size - 1), np.diff(table.starts))
    first, second = carried.rows_of(owners), carried.rows_of(table.ids)
    kept = (first != carried.stand_in) & (second != carried.stand_in)
    starts = np.searchsorted(first[kept], np.arange(carried.stand_in + 2))
    return NeighbourTable(
        starts=starts, ids=second[kept].astype(table.ids.dtype), codes=table.codes[kept],
        levels=table.levels, weight=table.weight, decay=table.decay, window=table.window,
        floor=table.floor,
    )  # fmt: skip


def edge_scores(
    states: Floats,
    rows: Floats,
    histories: Sequences,
    neighbours: NeighbourTable | None,
    carried: Carried | None,
) -> ScoreUsers:
    """What an edge with these item rows gives every item of the catalogue: the network's states,
    and its neighbours by rows. What it does not carry has no score (−inf)."""
    products = factor_scores(states, rows)
    if carried is None:
        return boosted(products, histories, neighbours)
    asked = replace(
        histories, items=carried.rows_of(histories.items), n_items=carried.stand_in, times=None
    )
    by_rows = boosted(products, asked, neighbours)

    def spread(users: Ids) -> NDArray[np.float32]:
        own = by_rows(users)
        block = np.full((len(own), carried.lost.size), -np.inf, np.float32)
        block[:, carried.ids] = own[:, 1:-1]
        return block

    return spread
