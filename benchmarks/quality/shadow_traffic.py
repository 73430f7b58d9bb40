"""Made-up traffic for the shadow alarm: kept calls lose 5 % on average, or 8 % after a shift."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tierline._core.shadow import RiskAlarm, ShadowPlan

Floats = NDArray[np.float64]

ALPHA, DELTA, RATE = 0.05, 0.05, 0.02
NOISE = 0.12  # of the uncertainty
_MIDPOINTS = (np.arange(800) + 0.5) / 800


class Traffic:
    """Calls of which 60 % are kept; ``spread`` true: few lose much, false: many lose a little.

    The risk of kept calls is set by integration, not by drawing: a null that is a little above
    alpha would ring.
    """

    def __init__(self, *, spread: bool) -> None:
        self._spread = spread
        self._scales = dict.fromkeys((0.05, 0.08), 1.0)
        self.threshold = _solve(lambda t: float(_kept(t).mean()) - 0.6, 0.0, 1.0)
        for risk in self._scales:
            self._scales[risk] = _solve(lambda s, r=risk: self._risk(s) - r, 0.01, 20.0)

    def calls(self, rng: np.random.Generator, n: int, risk: float) -> tuple[Floats, Floats]:
        """n uncertainties and losses; 1[kept]·loss has mean ``risk`` (.05 or .08)."""
        hardness = rng.random(n)
        uncertainty = np.clip(hardness + rng.normal(0, NOISE, n), 0, 1)
        changed, losses = self._given(hardness, rng.random(n), self._scales[risk])
        return uncertainty, np.where(rng.random(n) < changed, losses, 0.0)

    def plan(self, n: int = 4000) -> ShadowPlan:
        """What 4,000 calibration calls at a risk of .05 suggest."""
        uncertainty, losses = self.calls(np.random.default_rng(3), n, 0.05)
        return ShadowPlan.fit(uncertainty, losses, threshold=self.threshold, rate=RATE)

    def _given(self, hardness: Floats, place: Floats, scale: float) -> tuple[Floats, Floats]:
        """The chance of any loss, and the loss at a quantile ``place``, of a call so hard."""
        if self._spread:
            return np.minimum(1.0, scale * 0.27 * hardness**1.5), _kumaraswamy(place, 1.9, 2.2)
        losses = np.minimum(1.0, scale * hardness * _kumaraswamy(place, 1.4, 6.0))
        return 0.6 + 0.4 * hardness, losses

    def _risk(self, scale: float) -> float:
        changed, losses = self._given(_MIDPOINTS[:, None], _MIDPOINTS[None, :], scale)
        by_hardness = (changed * losses).mean(axis=1)
        return float((_kept(self.threshold) * by_hardness).mean())


def _kept(threshold: float) -> Floats:
    """The chance that a call is kept, by hardness: its uncertainty is hardness and normal noise."""
    return np.array(
        [0.5 * (1 + math.erf((threshold - h) / (NOISE * math.sqrt(2)))) for h in _MIDPOINTS]
    )


def _kumaraswamy(place: Floats, a: float, b: float) -> Floats:
    """Quantiles of a distribution like Beta(a, b) that has a formula for them."""
    result: Floats = (1 - (1 - place) ** (1 / b)) ** (1 / a)
    return result


def _solve(rising: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return low


def log_wealth(
    plan: ShadowPlan,
    bets: tuple[float, ...],
    kept: NDArray[np.bool_],
    uncertainty: Floats,
    losses: Floats,
) -> Floats:
    """The alarm's log wealth after each call of many runs at once, for its own bets; a test holds
    it against the alarm itself. Arrays are [runs, calls]; a loss is −1 where not drawn."""
    place = np.searchsorted(np.array(plan.edges), uncertainty)
    expected, chances = np.array(plan.expected)[place], np.array(plan.chances)[place]
    estimate = expected + np.where(losses >= 0, (losses - expected) / chances, 0.0)
    excess = np.where(kept, estimate, 0.0) - ALPHA
    paths = np.stack([np.cumsum(np.log1p(bet * excess), axis=1) for bet in bets])
    result: Floats = np.logaddexp.reduce(paths, axis=0) - math.log(len(bets))
    return result


def first_rings(
    traffic: Traffic, plan: ShadowPlan, *, risk: float, runs: int, calls: int, together: int = 20
) -> Floats:
    """The call at which each run's alarm rings (inf: it never does): float64[runs]."""
    bets = RiskAlarm(plan, alpha=ALPHA, delta=DELTA).bets
    rng = np.random.default_rng(17)
    rang = []
    for _ in range(runs // together):
        shape = (together, calls)
        u, losses = (part.reshape(shape) for part in traffic.calls(rng, together * calls, risk))
        chances = np.array(plan.chances)[np.searchsorted(np.array(plan.edges), u)]
        kept = u <= traffic.threshold
        seen = np.where(kept & (rng.random(shape) < chances), losses, -1.0)
        above = log_wealth(plan, bets, kept, u, seen) >= -math.log(DELTA)
        rang.append(np.where(above.any(axis=1), above.argmax(axis=1) + 1.0, np.inf))
    return np.concatenate(rang)
