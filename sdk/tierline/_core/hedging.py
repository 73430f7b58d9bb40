"""When a second attempt is worth its cost: after the tier's 95th percentile, or a fixed span."""

from __future__ import annotations

from tierline._config import HedgePolicy
from tierline._core.estimators import LatencyWindow

MINIMUM = 0.001  # seconds; below it a hedge doubles the load for nothing


def hedge_after(policy: HedgePolicy, latencies: LatencyWindow) -> float | None:
    """Seconds after which to hedge, or None while the tier's latency is not known yet."""
    if policy.after is not None:
        return policy.after
    measured = latencies.late
    return None if measured is None else max(MINIMUM, measured)


def can_still_win(latencies: LatencyWindow, remaining: float, now: float) -> bool:
    """Whether a hedge begun now would be answered in ``remaining`` seconds, half of the time."""
    return remaining >= latencies.lately_typical(now)
