"""What a failure means: may another endpoint answer, does it count against this one, and when.

Tenacity's strategies are evaluated here, by hand, at the core's own time; nothing sleeps.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base

from tierline import _exceptions as errors
from tierline._config import RetryPolicy
from tierline._core.dice import Dice

LONGEST_PUSHBACK = 3600.0  # seconds; who says more has lost its mind, not its capacity


class Fault(Enum):
    """Whose fault a failure is, which decides what is done about it."""

    NEVER_SENT = "never_sent"  # nothing reached the server: another attempt adds no load
    ENDPOINT = "endpoint"  # the endpoint failed: counts against it, another may answer
    BUSY = "busy"  # refused for load: neutral, another may answer
    OURS = "ours"  # this process stood still: says nothing of the endpoint
    ELSEWHERE = "elsewhere"  # not there, but perhaps elsewhere: neutral
    CALLER = "caller"  # the request is wrong or forbidden: final


# First match wins. resilience.md R5 has the reasons line by line.
_FAULTS: tuple[tuple[type[errors.TierlineError], Fault], ...] = (
    (errors.ConnectFailed, Fault.NEVER_SENT),
    (errors.AttemptLapsed, Fault.OURS),
    (errors.LocalProtocolError, Fault.CALLER),
    (errors.TransportError, Fault.ENDPOINT),
    (errors.FrameError, Fault.ENDPOINT),
    (errors.Overloaded, Fault.BUSY),
    (errors.DeadlineExceeded, Fault.BUSY),
    (errors.ModelNotFound, Fault.ELSEWHERE),
    (errors.BadRequest, Fault.CALLER),
    (errors.NotPermitted, Fault.CALLER),
    (errors.CallError, Fault.ENDPOINT),
)

_NAMES: dict[type[errors.TierlineError], str] = {
    errors.ConnectFailed: "connect_failed",
    errors.AttemptTimedOut: "timed_out",
    errors.AttemptLapsed: "lapsed",
    errors.LocalProtocolError: "local_protocol_error",
    errors.RemoteProtocolError: "remote_protocol_error",
    errors.FrameError: "bad_frame",
    errors.DeadlineExceeded: "deadline_exceeded",
    errors.Unavailable: "unavailable",
    errors.Overloaded: "overloaded",
    errors.NotPermitted: "not_permitted",
    errors.BadRequest: "bad_request",
    errors.ModelNotFound: "model_not_found",
    errors.ModelFailed: "model_failed",
}


def fault_of(error: errors.TierlineError) -> Fault:
    """Whose fault this failure is."""
    for kind, fault in _FAULTS:
        if isinstance(error, kind):
            return fault
    return Fault.ENDPOINT


def outcome_name(error: errors.TierlineError) -> str:
    """The failure's name in an Attempt and in a reason."""
    return _NAMES.get(type(error), type(error).__name__)


class FullJitter(wait_base):
    """Uniform in [0, base · 2^(n−1)), capped. Rolls the core's dice, not the global ones."""

    def __init__(self, base: float, cap: float, dice: Dice) -> None:
        self._base, self._cap, self._dice = base, cap, dice

    def __call__(self, retry_state: RetryCallState) -> float:
        span: float = self._base * 2.0 ** (retry_state.attempt_number - 1)
        return self._dice.random() * min(self._cap, span)


def wants_retry(
    policy: RetryPolicy, error: errors.TierlineError, attempts: int, elapsed: float
) -> bool:
    """Whether the policy would try again after this failure."""
    state = _state(error, attempts, elapsed)
    if policy.stop is not None and policy.stop(state):
        return False
    if policy.retry is not None:
        return bool(policy.retry(state))
    return fault_of(error) is not Fault.CALLER


def pushback(error: errors.TierlineError) -> float | None:
    """The seconds after which the endpoint wants to be asked again, if it said so in earnest."""
    after = error.retry_after if isinstance(error, errors.Overloaded) else None
    return after if after is not None and 0 <= after < LONGEST_PUSHBACK else None


def backoff(
    policy: RetryPolicy, error: errors.TierlineError, attempts: int, elapsed: float, dice: Dice
) -> float:
    """Seconds to wait before asking an endpoint that was asked before and said nothing of it."""
    wait = policy.wait or FullJitter(policy.base, policy.cap, dice)
    return max(0.0, float(wait(_state(error, attempts, elapsed))))


_RETRYING = Retrying()


def _state(error: errors.TierlineError, attempts: int, elapsed: float) -> RetryCallState:
    arguments: dict[str, Any] = {}  # tenacity's own type for the wrapped function's arguments
    state = RetryCallState(_RETRYING, None, (), arguments)
    state.attempt_number = attempts
    state.set_exception((type(error), error, None))
    state.start_time = 0.0
    state.outcome_timestamp = elapsed
    return state
