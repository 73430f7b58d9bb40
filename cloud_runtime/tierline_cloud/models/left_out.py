"""Item-kNN asked about the users it was counted on, each as if he had not been among them.

What a user did last is a pair that his own sequence put into the counts: asked in training, the
neighbours would know the answer. Taking his own pairs out makes the question the one of serving.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.models.baselines import (
    BACKWARD,
    DECAY,
    QUERY_POWER,
    TARGET_POWER,
    WINDOW,
    ItemKnn,
)


class LeftOut:
    """The neighbours of ``ItemKnn.fit(train)``, for the users of ``train``."""

    def __init__(self, knn: ItemKnn, train: Sequences) -> None:
        self._knn = knn
        popularity = np.maximum(train.popularity(), 1.0)
        self._query, self._target = popularity**-QUERY_POWER, popularity**-TARGET_POWER

    def scores_along(self, sequence: Ids) -> NDArray[np.float32]:
        """The catalogue's scores after every event of one user's whole training sequence, without
        what he added to the counts: float32[events, n_items + 1].

        Items more than WINDOW events back still count here, by DECAY**20 (4e-5) and less."""
        knn = self._knn
        items, where = np.unique(sequence, return_inverse=True)
        own = self._own(sequence, items, where)
        found = np.zeros((sequence.size, knn.n_items + 1), np.float32)
        scores = np.zeros(knn.n_items + 1, np.float32)
        for event, item in enumerate(sequence):
            scores *= DECAY
            span = slice(knn.starts[item], knn.starts[item + 1])
            scores[knn.neighbours[span]] += knn.weights[span]
            scores[items] -= own[where[event]]
            np.maximum(scores, 0.0, out=found[event])
        return found

    def _own(self, sequence: Ids, items: Ids, where: Ids) -> NDArray[np.float32]:
        """What these events put into the similarities of each other: [items, items]."""
        places = np.arange(sequence.size)
        ahead = places[None, :] - places[:, None]
        distance = np.abs(ahead)
        counted = (distance > 0) & (distance <= WINDOW)
        pairs = np.where(ahead > 0, 1.0, BACKWARD) / np.maximum(distance, 1) * counted
        own = np.zeros((items.size, items.size))
        np.add.at(own, (where[:, None], where[None, :]), pairs)
        discounted: NDArray[np.float32] = (
            own * self._query[items][:, None] * self._target[items]
        ).astype(np.float32)
        return discounted
