"""SASRec and item-kNN as a product of experts: what one has learned, the other has counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.evaluation.ranking import ScoreUsers, factor_scores
from tierline_cloud.models.baselines import ItemKnn
from tierline_cloud.models.ensemble import Ensemble, EnsembleConfig
from tierline_cloud.models.sasrec import SASRec, SASRecConfig

ARCHITECTURES = ("sasrec", "sasrec-knn", "ensemble-knn")
FLOOR = 1e-5  # the share of an item that is no neighbour; ten times more or less changes nothing
WEIGHTS = (0.0, 0.5, 1.0, 1.5)  # of the neighbours; validation chooses
PREFIX = "knn."  # of the neighbours' tensors, beside the network's in one file


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What item-kNN adds to the network's score of each item: ``weight · log(share + FLOOR)``.

    ``share`` is the item's part of all neighbours' scores. A softmax of the sum is the normalised
    product of the two distributions, the network's to the power 1 and the shares' to ``weight``
    (Hinton's product of experts); the normaliser moves no rank, so it is left out.
    """

    knn: ItemKnn
    weight: float

    def boost(self, history: NDArray[np.int64]) -> NDArray[np.float32]:
        """For one history, oldest first, the whole catalogue: float32[n_items + 1]."""
        scores = self.knn.scores_of(history)
        total = scores.sum()
        boost = np.full(scores.size, self.weight * np.log(FLOOR), np.float32)
        if total > 0.0:
            near = np.flatnonzero(scores)
            boost[near] = self.weight * np.log(scores[near] / total + FLOOR)
        return boost

    def boosts(self, histories: Sequences, users: Ids) -> NDArray[np.float32]:
        """For these users: float32[len(users), n_items + 1]."""
        return np.stack([self.boost(histories.of(int(user))) for user in users])

    def tensors(self) -> dict[str, Tensor]:
        """What a bundle carries of it."""
        return {
            f"{PREFIX}starts": torch.from_numpy(self.knn.starts),
            f"{PREFIX}neighbours": torch.from_numpy(self.knn.neighbours.astype(np.int32)),
            f"{PREFIX}weights": torch.from_numpy(self.knn.weights),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], weight: float, n_items: int) -> Self:
        """Take its tensors out of ``tensors``. Raises ValueError for what is no such table."""
        try:
            starts, neighbours, weights = (
                tensors.pop(PREFIX + name).numpy() for name in ("starts", "neighbours", "weights")
            )
        except KeyError as missing:
            raise ValueError(f"the neighbours lack {missing}") from missing
        wanted = [(np.int64, n_items + 2), (np.int32, weights.size), (np.float32, weights.size)]
        for array, (dtype, size) in zip((starts, neighbours, weights), wanted, strict=True):
            if array.dtype != dtype or array.shape != (size,):
                raise ValueError(f"expected {size} of {dtype.__name__} among the neighbours")
        ordered = (
            starts[0] == 0 and starts[-1] == weights.size and bool((np.diff(starts) >= 0).all())
        )
        known = weights.size == 0 or (neighbours.min() >= 0 and neighbours.max() <= n_items)
        if not ordered or not known or not np.isfinite(weights).all():
            raise ValueError("the neighbours' table points outside of itself or the catalogue")
        knn = ItemKnn(
            starts=starts,
            neighbours=neighbours.astype(np.int64),
            weights=weights,
            n_items=n_items,
        )
        return cls(knn=knn, weight=weight)


def blended(
    hidden: NDArray[np.float32],
    table: NDArray[np.float32],
    histories: Sequences,
    neighbours: Neighbours | None,
) -> ScoreUsers:
    """The network's scores and what the neighbours, if any, add to them."""
    network = factor_scores(hidden, table)
    if neighbours is None:
        return network
    return lambda users: network(users) + neighbours.boosts(histories, users)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudModel:
    """What a cloud bundle holds: the network (with architecture ensemble-knn several as one), and
    with the architectures on -knn its neighbours."""

    network: SASRec | Ensemble
    neighbours: Neighbours | None

    @property
    def table(self) -> NDArray[np.float32]:
        """The item rows, float32[n_items + 1, d]."""
        rows: NDArray[np.float32] = self.network.table.detach().numpy()
        return rows

    def boost(self, history: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """What is added to each item's product with the state; None: nothing."""
        return None if self.neighbours is None else self.neighbours.boost(history)

    @classmethod
    def from_bundle(
        cls, architecture: str | None, config: Mapping[str, Any], tensors: dict[str, Tensor]
    ) -> Self:
        """Raises ValueError, TypeError or RuntimeError (torch's) for what does not fit together."""
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r} is none of {ARCHITECTURES}")
        shape, neighbours = dict(config), None
        weight = shape.pop("neighbour_weight", None)
        network: SASRec | Ensemble
        if architecture == "ensemble-knn":
            network = Ensemble(EnsembleConfig.from_json(shape))
        else:
            network = SASRec(SASRecConfig(**shape))
        if architecture != "sasrec":
            if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise ValueError(f"neighbour_weight must be zero or more, got {weight!r}")
            neighbours = Neighbours.from_tensors(tensors, float(weight), network.config.n_items)
        network.load_state_dict(tensors, strict=True)
        return cls(network=network.eval(), neighbours=neighbours)
