"""Rank the whole catalogue for every user: seen items masked, ties to the lowest id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences

ScoreUsers = Callable[[Ids], NDArray[np.float32]]  # users[b] → scores [b, n_items + 1]
CHUNK = 512  # users at a time: 512 × 12,102 float32 scores are 25 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """``ranks``: the target's 1-based rank per user (n_items + 1 when it was masked as seen);
    ``top``: the k best item ids per user, −1 where fewer were left."""

    ranks: Ids
    top: Ids

    def of(self, users: Ids) -> Self:
        """The same for some of the users."""
        return replace(self, ranks=self.ranks[users], top=self.top[users])

    def save(self, stem: Path) -> None:
        """Write ``stem.ranks.npy`` and ``stem.top.npy``."""
        np.save(stem.with_suffix(".ranks.npy"), self.ranks)
        np.save(stem.with_suffix(".top.npy"), self.top)

    @classmethod
    def load(cls, stem: Path) -> Self:
        """Read what ``save`` wrote."""
        ranks, top = (np.load(stem.with_suffix(f".{part}.npy")) for part in ("ranks", "top"))
        return cls(ranks=ranks, top=top)


def rank_catalogue(
    scores: ScoreUsers, histories: Sequences, targets: Ids, *, k: int = 10, chunk: int = CHUNK
) -> Ranking:
    """Rank every user's target among all unseen items. Cold targets stay in, as misses."""
    ranks = np.empty(len(histories), np.int64)
    top = np.empty((len(histories), k), np.int64)
    for start in range(0, len(histories), chunk):
        users = np.arange(start, min(start + chunk, len(histories)))
        block = np.array(scores(users), np.float32)
        mask_seen(block, histories, users)
        ranks[users] = target_ranks(block, targets[users])
        top[users] = top_items(block, k)
    return Ranking(ranks=ranks, top=top)


def factor_scores(hidden: NDArray[np.float32], table: NDArray[np.float32]) -> ScoreUsers:
    """Scores as hidden states times item rows (float32)."""
    columns = torch.from_numpy(np.ascontiguousarray(table)).T
    states = torch.from_numpy(np.ascontiguousarray(hidden))

    def scores(users: Ids) -> NDArray[np.float32]:
        result: NDArray[np.float32] = (states[torch.from_numpy(users)] @ columns).numpy()
        return result

    return scores


def top_items(scores: NDArray[np.float32], k: int) -> Ids:
    """The k best columns of each row, best first, ties to the lowest id, −1 past the last
    finite score: int64[rows, k]."""
    kept = min(k, scores.shape[1])
    values, places = (part.numpy() for part in torch.from_numpy(scores).topk(kept, dim=1))
    order = np.lexsort((places, -values), axis=1)
    result = np.full((scores.shape[0], k), -1, np.int64)
    result[:, :kept] = np.take_along_axis(places, order, axis=1)
    # torch.topk breaks ties as it likes: redo the few rows where the last place is shared.
    tied = np.flatnonzero((scores >= values[:, -1:]).sum(axis=1) > kept)
    for row in tied:
        result[row, :kept] = np.argsort(-scores[row], kind="stable")[:kept]
    picked = np.take_along_axis(scores, np.maximum(result, 0), axis=1)
    return np.where(np.isneginf(picked), -1, result)


def mask_seen(block: NDArray[np.float32], histories: Sequences, users: Ids) -> None:
    """Set the items each of these users (in any order) has seen to −inf, and padding too."""
    lengths = histories.lengths[users]
    starts = np.repeat(histories.offsets[users] - np.cumsum(lengths) + lengths, lengths)
    seen = histories.items[starts + np.arange(lengths.sum())]
    block[np.repeat(np.arange(users.size), lengths), seen] = -np.inf
    block[:, 0] = -np.inf


def target_ranks(block: NDArray[np.float32], targets: Ids) -> Ids:
    """The 1-based rank of each row's target among its finite scores; a masked one comes last."""
    own = block[np.arange(targets.size), targets][:, None]
    ahead = (block > own).sum(axis=1)
    equal = (block == own) & (np.arange(block.shape[1]) < targets[:, None])
    ranks = 1 + ahead + equal.sum(axis=1)
    result: Ids = np.where(np.isneginf(own[:, 0]), block.shape[1], ranks).astype(np.int64)
    return result
