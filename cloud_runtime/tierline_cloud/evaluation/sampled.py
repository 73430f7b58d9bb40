"""The 99-negatives protocol of older papers, for comparison with their tables only."""

from __future__ import annotations

import warnings

import numpy as np

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.evaluation.ranking import ScoreUsers

NEGATIVES = 99


class SampledMetricsWarning(UserWarning):
    """These figures compare with nothing but figures sampled in the same way."""


def sampled_ranks(
    scores: ScoreUsers,
    histories: Sequences,
    targets: Ids,
    *,
    allow_sampled: bool = False,
    negatives: int = NEGATIVES,
    seed: int = 0,
    chunk: int = 512,
) -> Ids:
    """Each target's rank among itself and ``negatives`` random unseen items: int64[users].

    Raises ValueError unless ``allow_sampled``, and then still warns: sampled metrics order models
    differently from full ones. Source: Krichene & Rendle 2020 (KDD), On Sampled Metrics.
    """
    if not allow_sampled:
        raise ValueError(
            "sampled metrics can reverse which model is better: rank the whole catalogue with "
            "rank_catalogue, or pass allow_sampled=True to compare with a sampled table"
        )
    warnings.warn(
        f"ranks among {negatives} sampled items; they are far higher than full ranks and can order "
        "models differently (Krichene & Rendle 2020)",
        SampledMetricsWarning,
        stacklevel=2,
    )
    rng = np.random.default_rng(seed)
    ranks = np.empty(targets.size, np.int64)
    for start in range(0, targets.size, chunk):
        users = np.arange(start, min(start + chunk, targets.size))
        block = np.asarray(scores(users))
        for row, user in enumerate(users.tolist()):
            target = int(targets[user])
            drawn = _unseen(rng, histories.of(user), target, histories.n_items, negatives)
            own, others = block[row, target], block[row, drawn]
            ahead = (others > own).sum() + ((others == own) & (drawn < target)).sum()
            ranks[user] = 1 + int(ahead)
    return ranks


def _unseen(rng: np.random.Generator, seen: Ids, target: int, items: int, count: int) -> Ids:
    """``count`` distinct items, none of them seen or the target; all of them when fewer exist."""
    allowed = np.ones(items + 1, bool)
    allowed[0] = allowed[target] = False
    allowed[seen] = False
    pool = np.flatnonzero(allowed)
    return rng.choice(pool, size=min(count, pool.size), replace=False)
