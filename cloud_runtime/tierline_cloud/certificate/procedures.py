"""Which threshold may be certified: fixed-sequence test, uniform curve, conformal risk control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tierline.certificate import ESCALATE_ALL, KEEP_ALL, CurvePoint
from tierline_cloud.certificate.bounds import Losses, upper_bound

Thresholds = NDArray[np.float64]


def threshold_grid(uncertainty: Losses, points: int = 50) -> Thresholds:
    """At most ``points`` rising thresholds: ESCALATE_ALL, quantiles of the given uncertainties,
    KEEP_ALL. The uncertainties must not be those of calibration users: a grid that has seen the
    calibration data is chosen by it. float64[≤ points]."""
    if points < 2:
        raise ValueError(f"a grid needs at least 2 points, got {points}")
    if not uncertainty.size:
        raise ValueError("no uncertainties to take quantiles of")
    inner = np.quantile(uncertainty, np.arange(1, points - 1) / (points - 1), method="higher")
    inside = inner[(inner > ESCALATE_ALL) & (inner < KEEP_ALL)]
    return np.unique(np.concatenate([[ESCALATE_ALL], inside, [KEEP_ALL]]))


def kept_losses(losses: Losses, uncertainty: Losses, threshold: float) -> Losses:
    """l·1[u ≤ t] of every call: what is lost where a call is kept, 0 where it is escalated."""
    return np.where(uncertainty <= threshold, losses, 0.0)


def empirical_risks(losses: Losses, uncertainty: Losses, grid: Thresholds) -> Losses:
    """The mean of ``kept_losses`` at every threshold of a rising grid; never falls along it."""
    order = np.argsort(uncertainty, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(losses[order])])
    kept = np.searchsorted(uncertainty[order], grid, side="right")
    result: Losses = sums[kept] / losses.size
    return result


def fixed_sequence(
    losses: Losses,
    uncertainty: Losses,
    grid: Thresholds,
    *,
    alpha: float,
    delta: float,
    method: str = "hoeffding-bentkus",
) -> float:
    """The largest accepted threshold: tests R(t) > alpha from the strictest threshold upwards,
    each at level delta, and stops at the first it cannot reject. NaN when it accepts none.

    P(R(t̂) ≤ alpha) ≥ 1 − delta. The order is fixed beforehand (the risk only grows with t), so
    there is no price for multiplicity. Source: Angelopoulos et al. 2021 (Learn then Test,
    arXiv 2110.01052), fixed-sequence testing.
    """
    accepted = float("nan")
    for threshold in grid:
        bound = upper_bound(kept_losses(losses, uncertainty, float(threshold)), delta, method)
        if bound > alpha:
            return accepted
        accepted = float(threshold)
    return accepted


def uniform_curve(
    losses: Losses,
    uncertainty: Losses,
    grid: Thresholds,
    *,
    delta: float,
    method: str = "hoeffding-bentkus",
) -> tuple[CurvePoint, ...]:
    """α_ucb(t_j) = inf{a : p(t_j; a) ≤ δ/G} at all G thresholds: with probability at least
    1 − delta every bound holds at once, so any later choice of t keeps a valid one.

    Source: the method's bounds at δ/G each (Bonferroni). ESCALATE_ALL loses nothing by definition
    and costs no share of delta.
    """
    tested = int((grid > ESCALATE_ALL).sum())
    points = []
    bound = 0.0
    for threshold in grid.tolist():
        if threshold > ESCALATE_ALL:
            kept = kept_losses(losses, uncertainty, threshold)
            # Raising a bound keeps it one; so the curve never falls, as the risk never does.
            bound = max(bound, upper_bound(kept, delta / tested, method))
        points.append(
            CurvePoint(
                threshold=threshold,
                bound=bound,
                escalation=float((uncertainty > threshold).mean()),
            )
        )
    return tuple(points)


def conformal_risk_threshold(
    losses: Losses, uncertainty: Losses, grid: Thresholds, *, alpha: float
) -> float:
    """max{t : n/(n+1)·R̂(t) + 1/(n+1) ≤ alpha}: E[loss] ≤ alpha **in expectation only**, over the
    draw of the calibration users too. Never say "with confidence". NaN when no t qualifies.

    Source: Angelopoulos et al. 2022 (Conformal Risk Control, arXiv 2208.02814).
    """
    n = losses.size
    fits = n / (n + 1) * empirical_risks(losses, uncertainty, grid) + 1 / (n + 1) <= alpha
    return float(grid[np.flatnonzero(fits)[-1]]) if fits.any() else float("nan")


def segment_bounds(
    losses: Losses, segments: Sequence[str], *, delta: float, method: str = "hoeffding-bentkus"
) -> dict[str, float]:
    """An upper bound per segment (cold users, a tenant, a region), all at once with probability at
    least 1 − delta: each gets delta/m. Source: Bonferroni."""
    names = np.asarray(segments)
    if names.shape != losses.shape:
        raise ValueError(f"expected one segment a loss, got {names.shape} for {losses.shape}")
    distinct = sorted(set(segments))
    return {
        name: upper_bound(losses[names == name], delta / len(distinct), method) for name in distinct
    }
