"""Where a batch is scored: on the event loop when that is over at once, else on the scoring thread.

Pure: told what batches took. A thread's batches are slow by the clock whenever it must wait for the
interpreter's lock, so they count by the CPU they used. Whether that was the whole truth (a GPU,
other threads) shows when one is scored on the loop: who waits there for anything lets go of the
core, who is pushed off it by a neighbour does not, and would fare no better on a thread. If it was
not, the loop is barred for a while, twice as long each time.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from tierline_serving.costs import CostModel

# Seconds. A thread hand-over and the wait for the interpreter's lock cost 0.1 to 5 ms; the loop,
# busy so long, still refuses what it cannot serve well within 5 ms. A batch empties the caches of
# what answers the calls, so the fewer the better: 1 ms cost W1 a tenth of its rate (docs/serving).
INLINE_MOST: Final = 0.0015
WARM_AFTER: Final = 20  # batches before anything is scored on the loop
TOO_LONG: Final = 4.0  # times INLINE_MOST: no hiccup any more when it happens twice running
WAITS_MOST: Final = 0.01  # seconds: a batch longer than that was not just waiting for the lock
READ_LEAST, READ_MOST = 0.001, 0.003  # seconds: what ``reading_time`` may come to
READ_SHARE: Final = 4 / 3  # of the last turn's time
BARRED_FIRST: Final = 1.0  # seconds
BARRED_MOST: Final = 60.0


class Engine(Enum):
    """Who takes the next batch."""

    IDLE = "nobody: the queue is empty"
    TURN = "the loop, in the turn it has scheduled"
    THREAD = "the scoring thread"


class Took:
    """What a batch on the loop took: seconds by the clock, seconds of the loop's CPU, and how
    often the loop let go of its core to wait."""

    __slots__ = ("cpu", "seconds", "waits")

    def __init__(self, seconds: float, cpu: float, waits: int = 0) -> None:
        self.seconds = seconds
        self.cpu = cpu
        self.waits = waits


class Place:
    """How many rows the loop may score itself; 0: none, they go to the thread."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._costs = CostModel()
        self._rows = 0
        self._barred_until = float("-inf")
        self._bar = BARRED_FIRST
        self._long_ones = 0  # running

    def on_thread(self, rows: int, cpu: float, seconds: float) -> None:
        """The thread scored a batch: seconds of CPU, seconds by the clock."""
        self._learn(rows, cpu if seconds <= WAITS_MOST else seconds)

    def on_loop(self, rows: int, took: Took, now: float) -> None:
        """The loop scored a batch, and it is ``now``."""
        seconds = took.seconds if took.waits else took.cpu
        if seconds <= TOO_LONG * INLINE_MOST:
            self._long_ones = 0
            self._learn(rows, seconds)
            return
        self._long_ones += 1
        if self._long_ones > 1:
            self._long_ones = 0
            self._barred_until = now + self._bar
            self._bar = min(2 * self._bar, BARRED_MOST)

    def inline_rows(self, now: float) -> int:
        """How many rows a batch on the loop may have now."""
        return 0 if now < self._barred_until else self._rows

    def _learn(self, rows: int, seconds: float) -> None:
        self._costs.add(rows, seconds)
        if self._costs.batches >= WARM_AFTER:
            self._rows = self._costs.rows_within(INLINE_MOST, self._max_rows)


def reading_time(turn: float) -> float:
    """Seconds callers may be read before the next batch, when the last one kept the loop ``turn``
    seconds: READ_SHARE of that.

    With more, a flood of requests that are all refused takes the loop from those that were
    admitted. With less, or with a fixed time, a core that has become slower does not read as fast
    as calls come: they wait unread, where nobody looks at their deadlines
    (tests/serving/test_overload.py).
    """
    return min(max(turn * READ_SHARE, READ_LEAST), READ_MOST)
