"""What the core tells a shell to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tierline._core.fleet import EndpointState
    from tierline._core.sovereignty import View
    from tierline._exceptions import CallError
    from tierline._types import Answer


EARLY: Final = 1e-6  # seconds before its instant at which a call may be woken, no more


class StartAttempt(NamedTuple):
    """Send the request to this endpoint; report success, or failure at ``timeout_at`` at last.
    ``view`` is all that the endpoint may see of it (None: the whole)."""

    number: int
    kind: str
    endpoint: EndpointState
    timeout_at: float
    view: View | None = None


class CancelAttempt(NamedTuple):
    """Nobody wants this attempt's answer any more. Report nothing of it."""

    number: int


class WakeAt(NamedTuple):
    """Call ``wake`` at this instant, unless the call has finished: not before it by the clock that
    all events are told by, which may be slower than a timer."""

    at: float


class Finish(NamedTuple):
    """The call is over: return the answer, or raise the error."""

    answer: Answer | None
    error: CallError | None


Command = StartAttempt | CancelAttempt | WakeAt | Finish
