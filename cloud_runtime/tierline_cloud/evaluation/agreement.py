"""How far a served list falls short of the cloud's: without click labels, and with them, signed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation.metrics import ndcg


def agreement_loss(served: Ids, cloud: Ids) -> NDArray[np.float64]:
    """L_agree per user, in [0, 1]: 1 − Σ d_r g(served_r) / Σ d_r g(cloud_r) with d_r = 1/log2(r+1)
    and g(item) = k + 1 − its rank in the cloud's list, 0 outside. Both lists are [users, k]."""
    if served.shape != cloud.shape or served.ndim != 2:
        raise ValueError(f"expected two lists of one shape, got {served.shape} and {cloud.shape}")
    k = served.shape[1]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    gains = np.arange(k, 0, -1, dtype=np.float64)
    same = (served[:, :, None] == cloud[:, None, :]) & (cloud[:, None, :] >= 0)
    gained = (same * gains).sum(axis=2) @ discount
    best = np.where(cloud >= 0, gains, 0.0) @ discount
    return np.where(best > 0, 1.0 - gained / np.where(best > 0, best, 1.0), 0.0)


def overlap_loss(served: Ids, cloud: Ids) -> NDArray[np.float64]:
    """L_overlap per user, in [0, 1]: the share of the cloud's list that is not served, in whatever
    order. Both lists are [users, k], −1 where nothing is listed."""
    if served.shape != cloud.shape or served.ndim != 2:
        raise ValueError(f"expected two lists of one shape, got {served.shape} and {cloud.shape}")
    listed = cloud >= 0
    found = ((served[:, :, None] == cloud[:, None, :]).any(axis=1) & listed).sum(axis=1)
    wanted = listed.sum(axis=1)
    return np.where(wanted > 0, 1.0 - found / np.maximum(wanted, 1), 0.0)


def label_loss(served_ranks: Ids, cloud_ranks: Ids, k: int = 10) -> NDArray[np.float64]:
    """L_label per user, in [−1, 1]: NDCG@k of the cloud minus that of what is served.

    Signed: where the edge happens to rank the target higher the loss is negative, and has to stay
    so, or the mean is no longer the quality lost.
    """
    return ndcg(cloud_ranks, k) - ndcg(served_ranks, k)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Rank correlation, ties at their mean rank; 0 when either side is constant."""
    a, b = _mean_ranks(first), _mean_ranks(second)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2.0)[where]
    return ranks
