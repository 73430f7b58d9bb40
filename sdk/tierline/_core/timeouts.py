"""Until when an attempt may run: the measured tail of its tier, or the whole of what is left."""

from __future__ import annotations

from tierline._config import TimeoutPolicy
from tierline._core.estimators import LatencyWindow


def attempt_until(
    policy: TimeoutPolicy,
    latencies: LatencyWindow,
    *,
    now: float,
    deadline: float,
    is_last: bool,
    is_probe: bool,
) -> float:
    """The instant at which the attempt is given up.

    The last attempt a call can make, or pay for, gains nothing by being cut short. Any other one
    leaves half of the time to its successor, and is cut sooner when almost none took so long; only
    a breaker's probe gets its whole half, for what is measured may date from better days.
    """
    last_moment = deadline - policy.reserve
    if is_last:
        return last_moment
    share = (last_moment - now) / 2
    slowest = latencies.slowest
    if slowest is not None and not is_probe:
        share = min(share, max(policy.floor, policy.multiple * slowest))
    return now + share
