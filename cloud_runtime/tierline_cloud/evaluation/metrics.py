"""NDCG, hit rate and reciprocal rank at k from ranks; the paired bootstrap of a difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids


def ndcg(ranks: Ids, k: int) -> NDArray[np.float64]:
    """Per user: 1/log2(1 + rank) when the one target is in the top k, else 0."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def ranking_metrics(ranks: Ids, cutoffs: tuple[int, ...] = (5, 10)) -> dict[str, float]:
    """Mean NDCG@k, HR@k and MRR@k over users, named like ``ndcg@10``."""
    result = {}
    for k in cutoffs:
        hit = ranks <= k
        result[f"ndcg@{k}"] = float(ndcg(ranks, k).mean())
        result[f"hr@{k}"] = float(hit.mean())
        result[f"mrr@{k}"] = float(np.where(hit, 1.0 / ranks, 0.0).mean())
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean of ``first − second`` (one value a user, same users) and its percentile interval."""
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"expected two equally long vectors, got {first.shape}, {second.shape}")
    difference = first - second
    rng = np.random.default_rng(seed)
    means = [
        float(difference[rng.integers(difference.size, size=difference.size)].mean())
        for _ in range(draws)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(difference.mean()), low=float(low), high=float(high))
