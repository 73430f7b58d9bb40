"""Ranking quality from ranks and lists, and bootstrap intervals over users.

With one target a user, recall@k is the hit rate and the ideal DCG is 1. Definitions: Järvelin &
Kekäläinen 2002 (NDCG), as ``ir-measures``, ``ranx`` and torchmetrics compute them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences

Floats = NDArray[np.float64]


def ndcg(ranks: Ids, k: int) -> Floats:
    """Per user: 1/log2(1 + rank) when the one target is in the top k, else 0."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def hit_rate(ranks: Ids, k: int) -> Floats:
    """Per user: 1 when the target is in the top k, else 0."""
    return (ranks <= k).astype(np.float64)


def reciprocal_rank(ranks: Ids, k: int) -> Floats:
    """Per user: 1/rank when the target is in the top k, else 0."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def ranking_metrics(ranks: Ids, cutoffs: tuple[int, ...] = (5, 10)) -> dict[str, float]:
    """Mean NDCG@k, HR@k and MRR@k over users, named like ``ndcg@10``."""
    result = {}
    for k in cutoffs:
        result[f"ndcg@{k}"] = float(ndcg(ranks, k).mean())
        result[f"hr@{k}"] = float(hit_rate(ranks, k).mean())
        result[f"mrr@{k}"] = float(reciprocal_rank(ranks, k).mean())
    return result


def list_metrics(top: Ids, train: Sequences) -> dict[str, float]:
    """What the lists [users, k] look like, whoever likes them: ``coverage@k`` (the share of the
    catalogue that is shown to anybody), ``popularity@k`` (mean training count of a shown item) and
    ``gini@k`` (0: all items are shown equally often, towards 1: one is shown to all)."""
    k = top.shape[1]
    shown = np.bincount(top[top > 0], minlength=train.n_items + 1)[1:].astype(np.float64)
    if not shown.sum():
        raise ValueError("the lists show no items")
    rising = np.sort(shown)
    places = np.arange(1, rising.size + 1)
    gini = (2 * places - rising.size - 1) @ rising / (rising.size * rising.sum())
    return {
        f"coverage@{k}": float((shown > 0).mean()),
        f"popularity@{k}": float(shown @ train.popularity()[1:] / shown.sum()),
        f"gini@{k}": float(gini),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    first: Floats, second: Floats, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """The mean of ``first − second`` (one value a user, same users) and its percentile interval.

    Source: Efron & Tibshirani 1993, chapter 13; users are resampled, both values of one together.
    """
    _check_pairs(first, second)
    difference = first - second
    means = _resampled(
        lambda rows: float(difference[rows].mean()), difference.size, draws=draws, seed=seed
    )
    return _interval(float(difference.mean()), means, level)


def paired_retention(
    served: Floats, full: Floats, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """mean(served) / mean(full) over the same users, with its percentile interval. Raises
    ValueError when the full model's mean is 0: nothing can be retained of it."""
    _check_pairs(served, full)
    if not full.mean() > 0:
        raise ValueError("the full model's metric is 0 for every user: there is nothing to retain")

    def ratio(rows: Ids) -> float:
        below = float(full[rows].mean())
        return float(served[rows].mean()) / below if below else float("nan")

    ratios = _resampled(ratio, full.size, draws=draws, seed=seed)
    return _interval(float(served.mean() / full.mean()), ratios[~np.isnan(ratios)], level)


def _resampled(statistic: Callable[[Ids], float], size: int, *, draws: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(size, size=size)) for _ in range(draws)])


def _interval(mean: float, draws: Floats, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high))


def _check_pairs(first: Floats, second: Floats) -> None:
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"expected two equally long vectors, got {first.shape}, {second.shape}")
