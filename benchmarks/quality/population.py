"""A made-up population of calls, and many calibrations on it at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.certificate.bounds import bernstein_bound, betting_fractions, critical_risk

Floats = NDArray[np.float64]


def draw_calls(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Uncertainties and losses like those measured on Beauty: mean loss about .19, rank
    correlation with the uncertainty about .57, more than a third of the losses 0."""
    hardness = rng.random(shape)
    uncertainty = np.clip(hardness + rng.normal(0, 0.08, shape), 0, 1)
    changed = rng.random(shape) < 0.25 + 0.75 * hardness
    losses = np.clip(1.9 * hardness * rng.beta(1.2, 3.0, shape), 0, 1)
    return uncertainty, np.where(changed, losses, 0.0)


def true_risks(grid: Floats, size: int = 4_000_000) -> Floats:
    """R(t) of the population at each threshold, from ``size`` calls (standard error 1e-4)."""
    uncertainty, losses = draw_calls(np.random.default_rng(99), (size,))
    place = np.searchsorted(grid, uncertainty)
    sums = np.bincount(place, weights=losses, minlength=grid.size + 1)[: grid.size]
    result: Floats = np.cumsum(sums) / size
    return result


def accepted_points(
    uncertainty: Floats, losses: Floats, grid: Floats, *, alpha: float, delta: float, method: str
) -> NDArray[np.int64]:
    """The last threshold of the grid that each row (one calibration) accepts; the tests compare
    these with ``fixed_sequence`` on single rows."""
    rows, n = losses.shape
    bar = critical_risk(n, alpha, delta)
    accepted = np.full(rows, -1)
    going = np.ones(rows, bool)
    for point, threshold in enumerate(grid):
        kept = np.where(uncertainty[going] <= threshold, losses[going], 0.0)
        if method == "naive":
            passed = kept.mean(axis=1) <= alpha
        elif method == "crc":
            passed = n / (n + 1) * kept.mean(axis=1) + 1 / (n + 1) <= alpha
        elif method == "hoeffding-bentkus":
            passed = kept.mean(axis=1) <= bar
        elif method == "empirical-bernstein":
            pairs = zip(kept.mean(axis=1), kept.std(axis=1, ddof=1), strict=True)
            passed = np.array([bernstein_bound(m, s, n, delta) <= alpha for m, s in pairs])
        else:
            wealth = np.cumsum(np.log1p(-betting_fractions(kept, delta) * (kept - alpha)), axis=1)
            passed = wealth.max(axis=1) >= math.log(1 / delta)
        going[np.flatnonzero(going)[~passed]] = False
        accepted[going] = point
        if not going.any():
            break
    return accepted
