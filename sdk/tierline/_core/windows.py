"""Outcomes over a sliding window of time: good, bad and slow ones, in ten buckets."""

from __future__ import annotations

BUCKETS = 10


class OutcomeWindow:
    """How many attempts ended well, badly or slowly in the last ``seconds``."""

    __slots__ = ("_bad", "_epoch", "_good", "_slow", "_width")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self.clear()

    def clear(self) -> None:
        self._good = [0] * BUCKETS
        self._bad = [0] * BUCKETS
        self._slow = [0] * BUCKETS  # of the good ones
        self._epoch = -1

    def good(self, now: float, *, slow: bool = False) -> None:
        epoch = int(now / self._width)
        if epoch > self._epoch:
            self._turn(epoch)
        self._good[self._epoch % BUCKETS] += 1
        if slow:
            self._slow[self._epoch % BUCKETS] += 1

    def bad(self, now: float) -> None:
        epoch = int(now / self._width)
        if epoch > self._epoch:
            self._turn(epoch)
        self._bad[self._epoch % BUCKETS] += 1

    def totals(self, now: float) -> tuple[int, int, int]:
        """Good ones (slow ones among them), bad ones, slow ones."""
        epoch = int(now / self._width)
        if epoch > self._epoch:
            self._turn(epoch)
        return sum(self._good), sum(self._bad), sum(self._slow)

    def _turn(self, epoch: int) -> None:
        """Forget what has left the window. A clock that stepped back changes nothing."""
        if self._epoch < 0 or epoch - self._epoch >= BUCKETS:
            self.clear()
        else:
            for bucket in range(self._epoch + 1, epoch + 1):
                place = bucket % BUCKETS
                self._good[place] = self._bad[place] = self._slow[place] = 0
        self._epoch = epoch
