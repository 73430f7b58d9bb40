"""Whether a request can still be answered by its deadline. Pure: told the time and the backlog.

A request is admitted when the backlog and itself, priced by the cost model, finish before its
deadline. What batches cost beyond the model (reading, parsing and answering the callers, other
models) is learned while there is always a next batch: it stretches every prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from tierline import (
    BadRequest,
    Criticality,
    DeadlineExceeded,
    FrameError,
    ModelNotFound,
    NotPermitted,
    Overloaded,
    Unavailable,
)
from tierline_serving.costs import CostModel

WARM_AFTER: Final = 20  # batches before the model is believed enough to refuse anybody
MARGIN: Final = 0.001  # seconds kept for the way back to the caller
HICCUP: Final = 4.0  # a batch this many times slower than expected is doubted until the next one
STALE_AFTER: Final = 1.0  # seconds without a finished batch until an idle engine is tried again
DEFAULT_RETRY_AFTER: Final = 0.05  # said before the model is warm
STRETCH_MOST: Final = 10.0  # more is a stop of the whole process, not its pace
_STRETCH_WEIGHT: Final = 0.05
SHEDDABLE_SHARE: Final = 0.5  # of the time left: work that may be shed leaves room for other work
STANDING_AFTER: Final = 0.1  # seconds: a queue that was never empty for so long is no burst,
STANDING_BATCHES: Final = 8  # nor is one that has outlasted so many batches, where they take longer
STANDING_SHARE: Final = 0.5  # of the time left that a standing queue may take
AMPLE: Final = 0.1  # of the time left: what takes no more at the dearest rate is in time
_ALL_LATELY: Final = 20  # requests in a row that all brought candidates: lengths then tell rows
_RISES: Final = 1.01  # how much the fewest rows a byte are forgotten by with every request


class Backlog:
    """What stands before a newcomer: the queue, and the batch being scored since an instant."""

    __slots__ = ("queued_rows", "running_rows", "running_since")

    def __init__(
        self, queued_rows: int = 0, running_rows: int = 0, running_since: float = 0.0
    ) -> None:
        self.queued_rows = queued_rows
        self.running_rows = running_rows
        self.running_since = running_since

    @property
    def is_empty(self) -> bool:
        return self.queued_rows == 0 and self.running_rows == 0


class Verdict(Enum):
    """What becomes of a request at the door."""

    ADMIT = "admit"
    DEADLINE_PASSED = "deadline passed"
    OVERLOADED = "overloaded"


class Decision:
    """A verdict; with OVERLOADED, the seconds after which asking again makes sense, and the
    seconds a request would wait now."""

    __slots__ = ("queue", "retry_after", "verdict")

    def __init__(
        self, verdict: Verdict, retry_after: float | None = None, queue: float = 0.0
    ) -> None:
        self.verdict = verdict
        self.retry_after = retry_after
        self.queue = queue


class Shed(Overloaded):
    """Refused for load, with the reason in one word (for metrics and headers) and the seconds a
    request would wait now."""

    def __init__(self, reason: str, message: str, retry_after: float | None, queue: float) -> None:
        super().__init__(f"{message}; try later or elsewhere")
        self.reason = reason
        self.retry_after = retry_after
        self.queue = queue


def reason_of(error: Exception) -> str:
    """Why a request was not answered, in one word: what metrics and headers say."""
    if isinstance(error, Shed):
        return error.reason
    if isinstance(error, FrameError):
        return "bad_frame"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return "model_failed"


_REASONS: Final[Mapping[type[Exception], str]] = MappingProxyType(
    {
        DeadlineExceeded: "deadline_passed",
        Unavailable: "not_serving",
        BadRequest: "bad_request",
        ModelNotFound: "model_not_found",
        NotPermitted: "not_permitted",
        Overloaded: "overloaded",
    }
)

_ADMIT = Decision(Verdict.ADMIT)
_PASSED = Decision(Verdict.DEADLINE_PASSED)


class Admission:
    """Decides at the door of one scorer, and learns from every batch it finishes."""

    def __init__(
        self,
        max_batch_rows: int,
        *,
        max_queue_seconds: float = float("inf"),
    ) -> None:
        self._max_batch_rows = max_batch_rows
        self._max_queue_seconds = max_queue_seconds
        self.batch_rows = max_batch_rows  # how many rows the queue's batches have, as they go
        self.costs = CostModel()
        self._observed_at = float("-inf")
        self._last_took = 0.0  # seconds of the last batch
        self._slower = HICCUP  # how many times slower than expected the last batch was, or HICCUP
        self.stretch = 1.0  # seconds of the clock a second of scoring takes while work is queued
        # By class: since when nobody of it has found nothing queued before him.
        self._queued_since: dict[str, float] = {}
        self._density = math.inf  # candidates a byte: of the requests that came, the fewest
        self._with_candidates = 0  # requests since one that asked for the whole catalogue

    @property
    def is_warm(self) -> bool:
        return self.costs.batches >= WARM_AFTER

    def observe(self, rows: int, seconds: float, now: float, *, follows: bool = False) -> None:
        """Learn that a batch of ``rows`` took ``seconds`` and ended at ``now``; ``follows`` when it
        was waiting already while the one before it ran.

        One stalled batch (a page fault, a neighbour's burst) would have the next callers refused
        for nothing: it counts as HICCUP times the expected, and in full when another follows.
        """
        if follows and seconds > 0.0:
            pace = min(max((now - self._observed_at) / seconds, 1.0), STRETCH_MOST)
            self.stretch += (pace - self.stretch) * _STRETCH_WEIGHT
        expected = self.costs.seconds(rows)
        if self.is_warm and expected > 0.0:
            slower = seconds / expected
            seconds = expected * min(slower, self._slower)
            self._slower = max(slower, HICCUP)
        self.costs.add(rows, seconds)
        self._observed_at, self._last_took = now, seconds

    def learn_size(self, rows: int, size: int) -> None:
        """A request with ``size`` bytes of tensors turned out to have ``rows`` candidates; 0 when
        it asks for the whole catalogue, so that its length says nothing."""
        if not rows:
            self._with_candidates = 0
        elif size:
            self._density = min(rows / size, self._density * _RISES)
            self._with_candidates += 1

    def rows_in(self, size: int) -> int:
        """How many rows ``size`` bytes of tensors have at least, unread, as requests go lately: by
        those with the fewest rows a byte; 1 when some asked for the whole catalogue."""
        if self._with_candidates < _ALL_LATELY:
            return 1
        return max(1, int(size * self._density))

    def expected_wait(self, backlog: Backlog, now: float) -> float:
        """Seconds before a request arriving now would begin to be scored; 0 when not known."""
        if backlog.is_empty or not self.costs.batches:
            return 0.0
        return self._running(backlog, now) + self._queued(backlog.queued_rows)

    def decide(
        self,
        rows: int,
        deadline_at: float,
        backlog: Backlog,
        now: float,
        criticality: str = Criticality.DEFAULT,
        before: int | None = None,
    ) -> Decision:
        """Admit or refuse a request of ``rows`` rows. ``before`` of the queued rows are scored
        first (of its class and above); all of them when not said.

        Until WARM_AFTER batches have finished nobody is refused on a guess. An idle engine whose
        last batch is STALE_AFTER old admits whatever the model says, or one slow spell would refuse
        everybody for ever: with nothing admitted there is nothing to learn from.

        A queue that stands (STANDING_AFTER, STANDING_BATCHES) wins no throughput by being long: it
        is kept to half of the callers' time, so that what cannot be predicted makes nobody late,
        and who is refused learns it while there is time to ask elsewhere.
        """
        if not deadline_at > now:
            return _PASSED
        if self.costs.batches < WARM_AFTER:
            return _ADMIT
        queued, running = backlog.queued_rows, backlog.running_rows
        if before is None:
            before = queued
        dearest = (before + running + rows) * self.costs.dearest_row * self.stretch
        if dearest < AMPLE * min(deadline_at - now, self._max_queue_seconds):
            if not before:
                self._queued_since.pop(criticality, None)
            return _ADMIT  # most calls: nothing has to be predicted for them
        # A newcomer shares the last queued batch when it fits, so it pays the fixed cost only once.
        finish = self.through(before + rows, backlog, now)
        share = SHEDDABLE_SHARE if criticality == Criticality.SHEDDABLE else 1.0
        if self._stands(criticality, before, now):
            share *= STANDING_SHARE
        if share != 1.0:
            deadline_at = now + (deadline_at - now) * share
        late = finish - deadline_at
        # Any wait at all takes a backlog: without one, nothing but its own cost can be too long.
        too_long = finish - now - self._max_queue_seconds
        if late <= 0.0 and (too_long <= 0.0 or backlog.is_empty):
            return _ADMIT
        if backlog.is_empty and now - self._observed_at >= STALE_AFTER:
            return _ADMIT
        wait = self._running(backlog, now) + self._queued(before)
        return Decision(Verdict.OVERLOADED, max(late, too_long), wait)

    def through(self, rows: int, backlog: Backlog, now: float) -> float:
        """When so many of the queued rows are scored and on their way."""
        return now + self._running(backlog, now) + self._queued(rows) + MARGIN

    def retry_after(self, backlog: Backlog, now: float) -> float:
        """Seconds until the present backlog is through: what a full queue answers."""
        return self.expected_wait(backlog, now) if self.is_warm else DEFAULT_RETRY_AFTER

    def _stands(self, criticality: str, before: int, now: float) -> bool:
        """Whether what is queued before this class is no burst any more."""
        if not before:
            self._queued_since.pop(criticality, None)
            return False
        since = self._queued_since.setdefault(criticality, now)
        return now - since > max(STANDING_AFTER, STANDING_BATCHES * self._last_took)

    def drained(self, criticality: str) -> None:
        """Nothing is queued any more that a call of this class would wait for."""
        self._queued_since.pop(criticality, None)

    def _running(self, backlog: Backlog, now: float) -> float:
        if not backlog.running_rows:
            return 0.0
        left = self.costs.seconds(backlog.running_rows) - (now - backlog.running_since)
        return max(left, 0.0)

    def _queued(self, rows: int) -> float:
        if not rows:
            return 0.0
        most = self.batch_rows
        whole, rest = divmod(rows, most)
        seconds = whole * self.costs.seconds(most) if whole else 0.0
        if rest:
            seconds += self.costs.seconds(rest)
        return seconds * self.stretch
