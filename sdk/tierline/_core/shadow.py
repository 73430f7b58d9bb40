"""Which kept calls are shown to the cloud too, and whether what that shows breaks the bound.

Pure: handed the dice. The alarm is an e-process: however long it runs and however often it is
looked at, a bound that holds raises it with probability at most delta.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tierline._core.control import unit
from tierline._core.dice import Dice
from tierline.certificate import Certificate, CurvePoint

Floats = NDArray[np.float64]

BINS: Final = 10
LEAST_WEIGHT: Final = 0.3  # no kept call is shadowed with less than this times the mean chance
TRUST: Final = 0.8  # of the expected losses: full trust overshoots where few users made a bin
BETS: Final = (0.35, 0.7, 1.4)  # times the best bet against a risk 60 % too high, in quadratics
SHIFT: Final = 0.6
LARGEST_FALL: Final = 0.9  # a call may take at most this share of the wealth
CERTAIN: Final = 1e-3  # tuned as if no less than this were promised, and no more than 1 − this


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPlan:
    """The chance that a kept call is shadowed, by its uncertainty, and the loss expected of it.

    Bin i holds the uncertainties in (edges[i − 1], edges[i]]. ``spread`` is what one call's
    estimate of the risk should vary by (its variance): it tunes the bets. The alarm is valid
    whatever these numbers are; they decide how soon it rings.
    """

    edges: tuple[float, ...]
    chances: tuple[float, ...]
    expected: tuple[float, ...]
    spread: float

    def __post_init__(self) -> None:
        bins = len(self.edges) + 1
        if not (len(self.chances) == len(self.expected) == bins):
            raise ValueError(f"expected {bins} chances and expected losses for {bins - 1} edges")
        if not all(one < other for one, other in pairwise(self.edges)):
            raise ValueError("edges must rise")
        if not all(0 < chance <= 1 for chance in self.chances):
            raise ValueError(f"chances must lie in (0, 1], got {self.chances}")
        if not all(0 <= loss <= 1 for loss in self.expected) or not self.spread > 0:
            raise ValueError("expected losses must lie in [0, 1] and the spread be positive")

    @classmethod
    def uniform(cls, rate: float, *, alpha: float) -> ShadowPlan:
        """One chance for all kept calls, nothing expected: for want of calibration data."""
        return cls(edges=(), chances=(rate,), expected=(0.0,), spread=alpha / rate)

    @classmethod
    def fit(
        cls, uncertainty: Floats, losses: Floats, *, threshold: float, rate: float
    ) -> ShadowPlan:
        """From calibration calls (one uncertainty in [0, 1] and one loss each): a share ``rate`` of
        all calls is shadowed, more often where the loss varies more.

        Chances ∝ √E[(l − f)² | u] minimise the estimate's variance at a given rate (importance
        sampling, Neyman allocation). Raises ValueError when nothing is kept at the threshold.
        """
        kept = uncertainty <= threshold
        if not kept.any() or not 0 < rate <= 1:
            raise ValueError(f"no call is kept at threshold {threshold}, or rate {rate} is none")
        edges = np.unique(np.quantile(uncertainty[kept], np.arange(1, BINS) / BINS))
        place = np.searchsorted(edges, uncertainty[kept])
        counts = np.bincount(place, minlength=edges.size + 1)
        filled = np.maximum(counts, 1)
        means = np.bincount(place, weights=losses[kept], minlength=counts.size) / filled
        squares = np.bincount(place, weights=losses[kept] ** 2, minlength=counts.size) / filled
        expected = TRUST * means
        varies = np.maximum(squares - 2 * expected * means + expected**2, 1e-6)
        share = counts / kept.sum()
        weights = np.sqrt(varies)
        weights = np.maximum(weights, LEAST_WEIGHT * (share * weights).sum())
        chances = np.minimum(1.0, rate / kept.mean() * weights / (share * weights).sum())
        return cls(
            edges=tuple(edges.tolist()),
            chances=tuple(chances.tolist()),
            expected=tuple(expected.tolist()),
            spread=float(kept.mean() * (share * varies / chances).sum()),
        )

    @classmethod
    def of(cls, certificate: Certificate, *, threshold: float, rate: float) -> ShadowPlan | None:
        """From a certificate alone: its curve says how often which uncertainty comes and, by how
        much the bound rises, about what it loses; one chance for all where it tells none of the
        kept calls from another. None for a threshold that keeps no call."""
        bins = _coarse(certificate.curve)
        kept = [part for part in bins if part.upto <= max(threshold, bins[0].upto)]
        share = sum(part.share for part in kept)
        if threshold < 0:
            return None
        if share <= 0:
            return cls.uniform(rate, alpha=max(certificate.bound_at(threshold), CERTAIN))
        expected = [TRUST * part.loss for part in bins]
        # A loss in [0, 1] of mean m varies by at most m(1 − m), and around f by (m − f)² more.
        varies = [
            part.loss * (1 - part.loss) / 2 + (part.loss - guess) ** 2 + 1e-6
            for part, guess in zip(bins, expected, strict=True)
        ]
        weights = [math.sqrt(value) for value in varies]
        mean = sum(p.share * w for p, w in zip(kept, weights, strict=False)) / share
        weights = [max(weight, LEAST_WEIGHT * mean) for weight in weights]
        whole = sum(part.share * weight for part, weight in zip(kept, weights, strict=False))
        chances = [min(1.0, rate * weight / whole) for weight in weights]
        spread = sum(p.share * v / c for p, v, c in zip(kept, varies, chances, strict=False))
        return cls(
            edges=tuple(part.upto for part in bins[:-1]),
            chances=tuple(chances),
            expected=tuple(expected),
            spread=spread,
        )

    def bin_of(self, uncertainty: float) -> int:
        return bisect_left(self.edges, unit(uncertainty))


class _Bin(NamedTuple):
    """Calls of like uncertainty: up to which, what share of all, and about their mean loss."""

    upto: float
    share: float
    loss: float


def _coarse(curve: Sequence[CurvePoint]) -> list[_Bin]:
    """The curve in some ten bins, as many calls in each; the loss never falls along them (the
    bound's margin sits in the first, which would look worse than its neighbours)."""
    bins: list[_Bin] = []
    first = curve[0]
    for point in curve[1:]:
        share = first.escalation - point.escalation
        if share < 1 / BINS - 1e-9 and point is not curve[-1]:
            continue
        loss = min(1.0, (point.bound - first.bound) / share) if share > 0 else 1.0
        bins.append(_Bin(point.threshold, max(share, 0.0), loss))
        first = point
    for i in range(len(bins) - 2, -1, -1):
        bins[i] = bins[i]._replace(loss=min(bins[i].loss, bins[i + 1].loss))
    return bins


class RiskAlarm:
    """Rings when the loss of kept calls is above the bound, and never stops ringing.

    Every call gives an unbiased estimate of its loss, x = 1[kept]·(f(u) + Z/p(u)·(l − f(u))) with
    the shadow draw Z ~ p(u), and the wealth ∏(1 + λ(x − α)) is a supermartingale while the risk is
    at most α: it ever reaches 1/δ with probability at most δ (Ville). The wealth is the mean over
    three bets λ. Sources: Waudby-Smith & Ramdas 2024 (arXiv 2010.09686) for betting, Ville 1939;
    the estimate is the difference estimator of survey sampling (Horvitz–Thompson with a model).
    """

    __slots__ = ("_level", "_log_wealth", "_plan", "alarmed", "bets")

    def __init__(self, plan: ShadowPlan, *, alpha: float, delta: float) -> None:
        if not (0 <= alpha <= 1 and 0 < delta < 1):
            raise ValueError("expected alpha in [0, 1] and delta strictly between 0 and 1")
        self._plan = plan
        # The least an estimate can be is f(1 − 1/p), and a bound is at most 1.
        pairs = zip(plan.chances, plan.expected, strict=True)
        lowest = max(loss * (1 / chance - 1) for chance, loss in pairs)
        largest = LARGEST_FALL / (1 + lowest)
        best = SHIFT * min(max(alpha, CERTAIN), 1 - CERTAIN) / plan.spread
        self.bets = tuple(min(largest, scale * best) for scale in BETS)
        self._log_wealth = [0.0] * len(self.bets)
        self._level = math.log(1 / delta)
        self.alarmed = False

    def draws(self, uncertainty: float, dice: Dice) -> bool:
        """Whether this kept call is to be shown to the cloud as well."""
        return dice.random() < self._plan.chances[self._plan.bin_of(uncertainty)]

    def saw_escalated(self, bound: float) -> None:
        """A call that the threshold escalated: it lost nothing. (One forced to the edge counts
        here too: its loss is in the bound's forced share.) ``bound`` is what was promised of it."""
        self._bet(0.0 - bound)

    def saw_kept(self, uncertainty: float, bound: float, *, loss: float | None) -> None:
        """A kept call; ``loss`` in [0, 1] when it was drawn and the cloud answered, None when it
        was not drawn. A drawn call the cloud did not answer is not told at all."""
        place = self._plan.bin_of(uncertainty)
        estimate = self._plan.expected[place]
        if loss is not None:
            if not 0 <= loss <= 1:
                raise ValueError(f"a loss must lie in [0, 1], got {loss}")
            estimate += (loss - estimate) / self._plan.chances[place]
        self._bet(estimate - bound)

    @property
    def log_wealth(self) -> float:
        """ln of the mean wealth; the alarm rings at ln(1/δ)."""
        top = max(self._log_wealth)
        spread = sum(math.exp(one - top) for one in self._log_wealth)
        return top + math.log(spread / len(self.bets))

    def _bet(self, excess: float) -> None:
        wealth = self._log_wealth
        for i, bet in enumerate(self.bets):
            wealth[i] += math.log1p(bet * excess)
        # The mean is at most the largest: most calls need no more than a glance.
        if not self.alarmed and max(wealth) >= self._level:
            self.alarmed = self.log_wealth >= self._level


def disagreement(served: Sequence[int], cloud: Sequence[int]) -> float:
    """L_agree of one served list against the cloud's, both best first, −1 past their ends: 0 when
    they are the same, 1 when nothing of the cloud's list is served.

    1 − Σ d_r g(served_r) / Σ d_r g(cloud_r), d_r = 1/log2(r + 1), g(item) = k + 1 − its rank in the
    cloud's list. Source: docs/quality.md; the factory's is the same over many users.
    """
    k = len(cloud)
    gains = {item: k - rank for rank, item in enumerate(cloud) if item >= 0}
    gained = sum(gains.get(item, 0) / math.log2(rank + 2) for rank, item in enumerate(served[:k]))
    best = sum(gains[item] / math.log2(rank + 2) for rank, item in enumerate(cloud) if item >= 0)
    return min(1.0, max(0.0, 1.0 - gained / best)) if best else 0.0
