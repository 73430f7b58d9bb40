"""Whether a request can still be answered by its deadline. Pure: told the time and the backlog.

The time a batch takes is fitted as ``rows × a + b`` from the batches that finished; a request is
admitted when the backlog and itself, so priced, finish before its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

WARM_AFTER = 20  # batches before the fit is believed enough to refuse anybody
DECAY = 0.95  # weight of a batch against the next one: the last 20 batches decide
MARGIN = 0.001  # seconds kept for the way back to the caller
HICCUP = 4.0  # a batch this many times slower than expected is doubted until the next one
STALE_AFTER = 1.0  # seconds without a finished batch after which an idle engine is tried again
DEFAULT_RETRY_AFTER = 0.05  # said before the fit is warm


@dataclass(frozen=True, slots=True)
class Backlog:
    """What stands before a newcomer: the queue, and the batch being scored since an instant."""

    queued_rows: int = 0
    running_rows: int = 0
    running_since: float = 0.0

    @property
    def is_empty(self) -> bool:
        return self.queued_rows == 0 and self.running_rows == 0


class Verdict(Enum):
    """What becomes of a request at the door."""

    ADMIT = "admit"
    DEADLINE_PASSED = "deadline passed"
    OVERLOADED = "overloaded"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict; with OVERLOADED, the seconds after which asking again makes sense."""

    verdict: Verdict
    retry_after: float | None = None


_ADMIT = Decision(Verdict.ADMIT)
_PASSED = Decision(Verdict.DEADLINE_PASSED)


class CostFit:
    """``seconds ≈ a × rows + b`` by exponentially weighted least squares; never negative."""

    def __init__(self, decay: float = DECAY) -> None:
        self._decay = decay
        self._w = self._x = self._y = self._xx = self._xy = 0.0
        self.batches = 0
        self.per_row = 0.0
        self.fixed = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """Take in one finished batch."""
        d = self._decay
        self._w = self._w * d + 1.0
        self._x = self._x * d + rows
        self._y = self._y * d + seconds
        self._xx = self._xx * d + rows * rows
        self._xy = self._xy * d + rows * seconds
        self.batches += 1
        self._solve()

    def seconds(self, rows: int, batches: int = 1) -> float:
        """Predicted seconds for ``rows`` rows scored in so many batches."""
        return rows * self.per_row + batches * self.fixed

    def _solve(self) -> None:
        mean_x, mean_y = self._x / self._w, self._y / self._w
        variance = self._xx / self._w - mean_x * mean_x
        # Batches all of one size tell nothing of the slope. Then every row is priced at the mean,
        # the dearest slope a fit may have: it asks too much of large batches, never too little.
        if variance > 1e-6 * mean_x * mean_x:
            slope = (self._xy / self._w - mean_x * mean_y) / variance
        else:
            slope = mean_y / mean_x
        self.per_row = min(max(slope, 0.0), mean_y / mean_x)
        self.fixed = mean_y - self.per_row * mean_x


class Admission:
    """Decides at the door of one scorer, and learns from every batch it finishes."""

    def __init__(self, max_batch_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._fit = CostFit()
        self._observed_at = float("-inf")
        self._slower = HICCUP  # how many times slower than expected the last batch was, or HICCUP

    @property
    def is_warm(self) -> bool:
        return self._fit.batches >= WARM_AFTER

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """Learn that a batch of ``rows`` took ``seconds`` and ended at ``now``.

        One stalled batch (a page fault, a neighbour's burst) would have the next callers refused
        for nothing: it counts as HICCUP times the expected, and in full when another follows.
        """
        expected = self._fit.seconds(rows)
        if self.is_warm and expected > 0.0:
            slower = seconds / expected
            seconds = expected * min(slower, self._slower)
            self._slower = max(slower, HICCUP)
        self._fit.add(rows, seconds)
        self._observed_at = now

    def expected_wait(self, backlog: Backlog, now: float) -> float:
        """Seconds before a request arriving now would begin to be scored; 0 when not known."""
        if backlog.is_empty or not self._fit.batches:
            return 0.0
        wait = 0.0
        if backlog.running_rows:
            wait = self._fit.seconds(backlog.running_rows) - (now - backlog.running_since)
        if backlog.queued_rows:
            batches = -(-backlog.queued_rows // self._max_batch_rows)
            wait = max(wait, 0.0) + self._fit.seconds(backlog.queued_rows, batches)
        return max(wait, 0.0)

    def decide(self, rows: int, deadline_at: float, backlog: Backlog, now: float) -> Decision:
        """Admit or refuse a request of ``rows`` rows.

        Until WARM_AFTER batches have finished nobody is refused on a guess. An idle engine whose
        last batch is STALE_AFTER old admits whatever the fit says, or one slow spell would refuse
        everybody for ever: with nothing admitted there is nothing to learn from.
        """
        if not deadline_at > now:
            return _PASSED
        if not self.is_warm:
            return _ADMIT
        late = self._late_by(rows, deadline_at, backlog, now)
        if late <= 0.0:
            return _ADMIT
        if backlog.is_empty and now - self._observed_at >= STALE_AFTER:
            return _ADMIT
        return Decision(Verdict.OVERLOADED, late)

    def retry_after(self, backlog: Backlog, now: float) -> float:
        """Seconds until the present backlog is through: what a full queue answers."""
        return self.expected_wait(backlog, now) if self.is_warm else DEFAULT_RETRY_AFTER

    def _late_by(self, rows: int, deadline_at: float, backlog: Backlog, now: float) -> float:
        # A newcomer shares the last queued batch when it fits, so it pays the fixed cost only once.
        total = backlog.queued_rows + rows
        batches = -(-total // self._max_batch_rows)
        running = Backlog(0, backlog.running_rows, backlog.running_since)
        finish = now + self.expected_wait(running, now) + self._fit.seconds(total, batches)
        return finish + MARGIN - deadline_at
