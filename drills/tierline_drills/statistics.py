"""Percentiles and intervals of a drill's figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959964  # two-sided 95 %


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of the values do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def wilson(good: int, total: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927): (lower, upper), (0, 1) of nothing.

    centre = (p + z²/2n) / (1 + z²/n), half width = z·√(p(1−p)/n + z²/4n²) / (1 + z²/n).
    """
    if total == 0:
        return 0.0, 1.0
    share, squared = good / total, z * z
    scale = 1.0 + squared / total
    centre = (share + squared / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + squared / (4 * total * total)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def provable(total: int) -> float:
    """The share of good calls that ``total`` calls without a failure can show at 95 %: the rule of
    three, 1 − 3/n. 0 of fewer than three."""
    return max(0.0, 1.0 - 3.0 / total) if total else 0.0
