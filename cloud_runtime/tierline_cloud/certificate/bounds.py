"""Finite-sample p-values and upper bounds on the mean of a loss in [0, 1]; numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]

METHODS = ("hoeffding-bentkus", "wsr", "empirical-bernstein")
_BISECTIONS = 60  # halves [0, 1] down to 1e-18


class CalibrationRefused(ValueError):
    """A calibration that proves nothing; the message says what was wrong and what to do."""


def hoeffding_bentkus_p_value(risk: float, n: int, alpha: float, *, binary: bool = False) -> float:
    """The p-value of "the mean loss exceeds ``alpha``" after ``n`` losses of mean ``risk``.

    min(exp(−n h₁(min(risk, α), α)), e·P(Bin(n, α) ≤ ⌈n·risk⌉)), the factor e dropped for losses
    of 0 and 1. Source: Bates et al. 2021 (arXiv 2101.02703), as in
    ``core/bounds.py`` of aangelopoulos/ltt and in MAPIE's ``ltt_procedure``.
    """
    _check_level("alpha", alpha)
    if n < 1 or not 0 <= risk <= 1:
        raise ValueError(f"expected n >= 1 and a risk in [0, 1], got n={n}, risk={risk}")
    hoeffding = math.exp(-n * _relative_entropy(min(risk, alpha), alpha))
    factor = 1.0 if binary else math.e
    bentkus = factor * binomial_cdf(math.ceil(n * risk), n, alpha)
    return min(1.0, hoeffding, bentkus)


def hoeffding_bentkus_bound(risk: float, n: int, delta: float) -> float:
    """inf{a : p(risk, n, a) ≤ δ}: the mean lies below with probability at least 1 − δ.

    Source: inversion of the p-value above (Bates et al. 2021).
    """
    _check_level("delta", delta)
    return _smallest(lambda a: hoeffding_bentkus_p_value(risk, n, a) <= delta, low=risk)


def critical_risk(n: int, alpha: float, delta: float) -> float:
    """The largest empirical mean of ``n`` losses that Hoeffding–Bentkus still accepts for alpha at
    level delta; −1.0 when not even a mean of 0 is accepted (n is too small)."""
    _check_level("delta", delta)
    if hoeffding_bentkus_p_value(0.0, n, alpha) > delta:
        return -1.0
    low, high = 0.0, alpha
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if hoeffding_bentkus_p_value(middle, n, alpha) <= delta:
            low = middle
        else:
            high = middle
    return low


def smallest_sample(alpha: float, delta: float) -> int:
    """The fewest losses with which even a sample of zeros certifies ``alpha``: the first integer
    not below ln(1/δ) / −ln(1 − α). Source: Hoeffding's exp(−n h₁(0, α)) = (1 − α)ⁿ."""
    _check_level("alpha", alpha)
    _check_level("delta", delta)
    return math.ceil(math.log(1 / delta) / -math.log1p(-alpha))


def wsr_bound(losses: Losses, delta: float) -> float:
    """The betting upper bound of Waudby-Smith & Ramdas 2024 (JRSS-B, arXiv 2010.09686).

    The root in m of max_i Σ_{j≤i} ln(1 − ν_j (x_j − m)) = ln(1/δ), with the predictable bets
    ν_i = min(1, √(2 ln(1/δ) / (n σ²_{i−1}))); 1.0 when no m below 1 is refuted. The losses must
    be in random order. Source of the form used here: ``rc/bounds.py`` of metodj/RC-EENN.
    """
    _check_level("delta", delta)
    values = _checked(losses)
    bets = betting_fractions(values, delta)
    target = math.log(1 / delta)
    return _smallest(lambda m: _peak_log_wealth(values, bets, m) >= target, low=0.0)


def wsr_p_value(losses: Losses, alpha: float, delta: float) -> float:
    """min(1, 1 / max_i wealth_i) of the bets above against the mean ``alpha`` (Ville's inequality);
    ``delta`` only tunes the bets, the p-value is valid whatever it is."""
    _check_level("alpha", alpha)
    values = _checked(losses)
    return min(1.0, math.exp(-_peak_log_wealth(values, betting_fractions(values, delta), alpha)))


def betting_fractions(losses: Losses, delta: float) -> Losses:
    """ν_i of each loss along the last axis, from the losses before it: never more than 1, so that
    the wealth 1 − ν (x − m) stays at or above m."""
    n = losses.shape[-1]
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(losses, axis=-1)) / (counts + 1)
    variances = (0.25 + np.cumsum((losses - means) ** 2, axis=-1)) / (counts + 1)
    before = np.empty_like(variances)
    before[..., 0] = 0.25
    before[..., 1:] = variances[..., :-1]
    result: Losses = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (n * before)))
    return result


def empirical_bernstein_bound(losses: Losses, delta: float) -> float:
    """mean + s √(2 ln(2/δ)/n) + 7 ln(2/δ)/(3(n − 1)), s with n − 1 below; at most 1.

    Source: Maurer & Pontil 2009 (arXiv 0907.3740), Theorem 4.
    """
    _check_level("delta", delta)
    values = _checked(losses)
    if values.size < 2:
        return 1.0
    return bernstein_bound(float(values.mean()), float(values.std(ddof=1)), values.size, delta)


def bernstein_bound(mean: float, deviation: float, n: int, delta: float) -> float:
    """The same from the sample's mean, its standard deviation (n − 1 below) and its size ≥ 2."""
    level = math.log(2 / delta)
    return min(1.0, mean + deviation * math.sqrt(2 * level / n) + 7 * level / (3 * (n - 1)))


def upper_bound(losses: Losses, delta: float, method: str) -> float:
    """The upper bound of one of METHODS on the mean of losses in [0, 1]. Raises ValueError."""
    match method:
        case "hoeffding-bentkus":
            values = _checked(losses)
            return hoeffding_bentkus_bound(float(values.mean()), values.size, delta)
        case "wsr":
            return wsr_bound(losses, delta)
        case "empirical-bernstein":
            return empirical_bernstein_bound(losses, delta)
        case _:
            raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")


def signed_gap_bound(differences: Losses, delta: float) -> float:
    """An upper bound on the mean of signed label losses q(cloud) − q(served) in [−1, 1].

    WSR on Z = (L + 1)/2, scaled back. Never on losses clipped at zero: their mean is not the
    quality lost. Raises CalibrationRefused for a sample that was clipped. Source: shifting and
    scaling of the WSR bound; the trap is in RC-EENN's code (clipped) against its paper.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not values.size or not (np.abs(values) <= 1).all():
        raise CalibrationRefused("expected a vector of signed losses in [-1, 1], one a user")
    if (values > 0).sum() >= SIGNS_WANTED and not (values < 0).any():
        raise CalibrationRefused(
            f"none of {values.size} label losses is negative: they look clipped at 0, which makes "
            "their mean something else than the quality lost; pass q(cloud) − q(served) as it is"
        )
    return 2 * wsr_bound((values + 1) / 2, delta) - 1


SIGNS_WANTED = 20  # this many losses above zero and none below: 1e-6 where both are as likely


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) ≤ k), relative error below 1e-9 for n up to 1e5: the largest term by ``lgamma``,
    the others by the ratio of neighbours (numpy has no binomial, and the cloud no scipy)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    if k > n * p:  # sum the short side
        return 1.0 - binomial_cdf(n - k - 1, n, 1.0 - p)
    largest = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(p)
        + (n - k) * math.log1p(-p)
    )
    downwards = np.arange(k, 0, -1)
    ratios = downwards / (n - downwards + 1) * ((1 - p) / p)
    return min(1.0, math.exp(largest) * (1.0 + float(np.cumprod(ratios).sum())))


def _relative_entropy(a: float, b: float) -> float:
    """h₁(a, b) = a ln(a/b) + (1 − a) ln((1 − a)/(1 − b))."""
    first = a * math.log(a / b) if a > 0 else 0.0
    second = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return first + second


def _peak_log_wealth(losses: Losses, bets: Losses, m: float) -> float:
    # At m = 0 a loss of 1 may take everything: log 0 is −inf, and no bet after it wins it back.
    with np.errstate(divide="ignore"):
        return float(np.cumsum(np.log1p(-bets * (losses - m))).max())


def _smallest(holds: Callable[[float], bool], *, low: float) -> float:
    """The smallest value in [low, 1] from which on ``holds`` is true; 1.0 when nowhere below 1."""
    high = 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if 0 < middle < 1 and holds(middle):
            high = middle
        else:
            low = middle
    return high


def _checked(losses: Losses) -> Losses:
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or not values.size:
        raise CalibrationRefused(f"expected a vector of losses, got shape {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise CalibrationRefused("losses must lie in [0, 1]; rescale signed ones, never clip them")
    return values


def _check_level(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
