"""Popularity and item-kNN: fitted in seconds, the bar every trained model has to clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Sequences

WINDOW = 20  # events: how far apart two items still count as a pair, and how much history scores
BACKWARD = 0.5  # a pair seen against its order counts half
DECAY = 0.6  # per step back in the history
QUERY_POWER, TARGET_POWER = 0.5, 0.1  # popularity discounts


def popularity_prior(train: Sequences) -> NDArray[np.float32]:
    """log(1 + count) for every item: float32[n_items + 1], entry 0 is −inf."""
    prior = np.log1p(train.popularity()).astype(np.float32)
    prior[0] = -np.inf
    return prior


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemKnn:
    """Directed item-item similarities in compressed rows: S = D^-.5 C D^-.1."""

    starts: NDArray[np.int64]  # [n_items + 2]
    neighbours: NDArray[np.int64]
    weights: NDArray[np.float32]
    n_items: int

    @classmethod
    def fit(cls, train: Sequences) -> ItemKnn:
        """Count pairs at most WINDOW events apart, 1/distance forward, half that backward."""
        users = np.repeat(np.arange(len(train)), train.lengths)
        keys, counts = [], []
        rows = train.n_items + 1
        for distance in range(1, WINDOW + 1):
            same = users[distance:] == users[:-distance]
            first, second = train.items[:-distance][same], train.items[distance:][same]
            keys += [first * rows + second, second * rows + first]
            counts += [np.full(first.size, 1 / distance), np.full(first.size, BACKWARD / distance)]
        pairs, where = np.unique(np.concatenate(keys), return_inverse=True)
        count = np.bincount(where, weights=np.concatenate(counts), minlength=pairs.size)
        queries, targets = np.divmod(pairs, rows)
        popularity = np.maximum(train.popularity(), 1.0)
        discount = popularity[queries] ** -QUERY_POWER * popularity[targets] ** -TARGET_POWER
        return cls(
            starts=np.searchsorted(queries, np.arange(rows + 1)),
            neighbours=targets,
            weights=(count * discount).astype(np.float32),
            n_items=train.n_items,
        )

    def scores(self, histories: Sequences, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of the whole catalogue for these users: float32[len(users), n_items + 1]."""
        result = np.zeros((users.size, self.n_items + 1), np.float32)
        for row, user in enumerate(users):
            result[row] = self.scores_of(histories.of(int(user)))
        return result

    def scores_of(self, history: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores of the whole catalogue for one history, oldest first: float64[n_items + 1]."""
        spans = [slice(self.starts[item], self.starts[item + 1]) for item in history[::-1][:WINDOW]]
        if not spans:
            return np.zeros(self.n_items + 1)
        places = np.concatenate([self.neighbours[span] for span in spans])
        parts = [self.weights[span] * DECAY**age for age, span in enumerate(spans)]
        scores = np.zeros(self.n_items + 1)
        np.add.at(scores, places, np.concatenate(parts))
        return scores
