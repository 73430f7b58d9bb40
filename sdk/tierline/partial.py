"""Which candidates the cloud should rescore, and whether that pays rather than escalating whole.

The larger the band, the smaller the loss: a wider band never makes the served list worse against
the cloud's, so the threshold tests of a certificate apply to the width as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Positions = NDArray[np.int64]


def best_first(scores: Scores, ids: Positions | None = None) -> Positions:
    """Positions by falling score, ties by id (by position without ids); NaN last. int64[n]."""
    ties = np.arange(scores.size) if ids is None else ids
    keys = np.where(np.isnan(scores), -np.inf, scores)
    return np.lexsort((ties, -keys))


def ambiguous_band(
    scores: Scores, k: int, width: float, *, ids: Positions | None = None
) -> Positions:
    """The positions that might belong to the top k, best first: s_i ≥ s_(k) − width·sd, where sd is
    the standard deviation of the finite scores. Never fewer than the top k, never one without a
    finite score. int64[m].

    Source: the ambiguous band of AcuRank (arXiv 2505.18512) and CEC-Ranking (arXiv 2205.09638),
    with a width that does not depend on the scores' scale or zero.
    """
    if k < 1 or not width >= 0:
        raise ValueError(f"expected k >= 1 and a width >= 0, got {k} and {width}")
    order = best_first(scores, ids)
    order = order[np.isfinite(scores[order])]
    if order.size <= k:
        return order
    ranked = scores[order].astype(np.float64)
    floor = ranked[k - 1] - width * ranked.std() if math.isfinite(width) else -math.inf
    return order[: max(k, int((ranked >= floor).sum()))]


def merge_band(
    order: Positions, band: Positions, cloud: Scores, *, ids: Positions | None = None
) -> Positions:
    """The list to serve: the band in the cloud's order, then the rest of ``order`` as it was.
    ``cloud`` holds the cloud's score of each position of the band, in the band's order.

    For bands that contain each other, the top k by the cloud's order of the larger one is at every
    rank at least as good as the smaller one's: each item of the smaller is a candidate of the
    larger. So L_agree, a sum of falling discounts times gains that follow the cloud's order, never
    rises with the band (while it holds at least k items).
    """
    if cloud.shape != band.shape:
        raise ValueError(f"expected one cloud score a position, got {cloud.shape} for {band.shape}")
    within = best_first(cloud, band if ids is None else ids[band])
    rest = order[~np.isin(order, band)]
    return np.concatenate([band[within], rest])


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCurve:
    """What scoring m candidates in the cloud costs: fixed + per_candidate·m, in any one unit."""

    fixed: float
    per_candidate: float

    def __post_init__(self) -> None:
        if not (0 <= self.fixed < math.inf and 0 <= self.per_candidate < math.inf):
            raise ValueError("costs must be finite and not negative")

    @classmethod
    def fit(cls, candidates: Sequence[float], costs: Sequence[float]) -> CostCurve:
        """Least squares through measured costs, neither part negative. Needs two sizes."""
        sizes, spent = np.asarray(candidates, np.float64), np.asarray(costs, np.float64)
        if sizes.shape != spent.shape or np.unique(sizes).size < 2:
            raise ValueError("a cost curve needs the costs of at least two numbers of candidates")
        slope, fixed = np.polyfit(sizes, spent, 1)
        if slope < 0:
            return cls(fixed=float(spent.mean()), per_candidate=0.0)
        if fixed < 0:
            return cls(fixed=0.0, per_candidate=float((sizes @ spent) / (sizes @ sizes)))
        return cls(fixed=float(fixed), per_candidate=float(slope))

    def of(self, candidates: float) -> float:
        return self.fixed + self.per_candidate * candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationOption:
    """One way to escalate: ``width`` None sends the whole call. ``share`` of the calls is
    escalated, each with ``candidates`` on average; ``bound`` is certified for it."""

    width: float | None
    share: float
    candidates: float
    bound: float


def cheapest(
    options: Sequence[EscalationOption], cost: CostCurve, alpha: float, *, margin: float = 0.05
) -> EscalationOption | None:
    """The option of least cost a call whose bound is at most alpha; None when there is none.

    A partial one must be cheaper than the cheapest whole one by ``margin``: it also has a ceiling,
    the edge's recall of the cloud's items, so for a cloud whose cost does not depend on the number
    of candidates (a dot product behind one encoding) whole escalation wins.
    """
    allowed = [option for option in options if option.bound <= alpha]
    whole = [option for option in allowed if option.width is None]
    partial = [option for option in allowed if option.width is not None]

    def price(option: EscalationOption) -> float:
        return option.share * cost.of(option.candidates)

    best = min(whole, key=price, default=None)
    rival = min(partial, key=price, default=None)
    if best is None or rival is None:
        return best or rival
    return rival if price(rival) < (1 - margin) * price(best) else best
