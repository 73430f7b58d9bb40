"""One request on its way through a runner: what it asks, by when, and who is told the outcome."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from tierline.wire import ScoreReply, ScoreRequest

Outcome = ScoreReply | Exception
Done = Callable[["Pending", Outcome], None]


def tell(answered: asyncio.Future[ScoreReply], outcome: Outcome) -> None:
    """Give who awaits an answer its outcome, unless he was cancelled in the same turn."""
    if answered.done():
        return
    if isinstance(outcome, ScoreReply):
        answered.set_result(outcome)
    else:
        answered.set_exception(outcome)


def teller(answered: asyncio.Future[ScoreReply]) -> Done:
    """Tells who awaits an answer its outcome, with the seconds it took."""

    def done(ended: Pending, outcome: Outcome) -> None:
        tell(answered, ended.timed(outcome))

    return done


class Pending:
    """One submitted request; its identity is the ticket. ``done`` is None once it is settled.

    A request larger than a batch is never queued itself: its ``parts`` are. ``queue`` and
    ``compute`` are the seconds it took, once its outcome is told.
    """

    __slots__ = (
        "compute",
        "deadline_at",
        "done",
        "parts",
        "queue",
        "request",
        "rows",
        "submitted_at",
    )

    def __init__(
        self, request: ScoreRequest, rows: int, deadline_at: float, submitted_at: float, done: Done
    ) -> None:
        self.request = request
        self.rows = rows
        self.deadline_at = deadline_at
        self.submitted_at = submitted_at
        self.done: Done | None = done
        self.queue = self.compute = 0.0
        self.parts: tuple[Pending, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        size = 0
        for array in self.request.query.values():
            size += array.nbytes
        for array in (self.request.candidates or {}).values():
            size += array.nbytes
        return size

    def settle(self, outcome: Outcome) -> None:
        """Tell the outcome, if nothing was told before. On the loop only."""
        done, self.done = self.done, None
        if done is not None:
            done(self, outcome)

    def timed(self, outcome: Outcome) -> Outcome:
        """The outcome with ``queue`` and ``compute`` among the timings of a reply."""
        if not isinstance(outcome, ScoreReply):
            return outcome
        # Positional: a named tuple's _replace costs five times as much.
        timings = {**outcome.timings, "queue": self.queue, "compute": self.compute}
        return ScoreReply(*outcome[:6], timings)


def earliest_deadline(those: Iterable[Pending]) -> float:
    """When the first of those not settled yet is late; infinity when all are."""
    return min((each.deadline_at for each in those if each.done is not None), default=math.inf)
