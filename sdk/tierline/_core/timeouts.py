"""Until when an attempt may run: the measured tail of its tier, or the whole of what is left; and
whether what came much later tells of the endpoint, or of this process."""

from __future__ import annotations

from tierline import _exceptions as errors
from tierline._config import TimeoutPolicy
from tierline._core.estimators import LatencyWindow

TICK = 0.01  # seconds; what any timer may be late
LATE = 0.05  # seconds; a busy process's timers are late, too, but hardly by so much
LOST = (errors.AttemptTimedOut, errors.RemoteProtocolError)  # what our standing still may cause


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
    leaves half of the time to its successor, and is cut sooner when almost no answer took so long;
    only a breaker's probe gets its whole half, for what is measured may date from better days.
    """
    last_moment = deadline - policy.reserve
    if is_last:
        return last_moment
    share = (last_moment - now) / 2
    tail = latencies.tail
    if tail is not None and not is_probe:
        share = min(share, max(policy.floor, policy.multiple * tail))
    return now + share


def stood_still(until: float, allowed: float, now: float) -> bool:
    """Whether what is heard only ``now`` of an attempt that might last until ``until``, which is
    ``allowed`` seconds, tells of this process and not of the endpoint: its own timer must have come
    this late. A process whose every timer is late still learns who is away, for it counts as
    standing still only when it did so for half as long as the attempt might last."""
    return now - until > max(LATE, allowed / 2)
