"""What is believed of latencies and loads: peak-EWMA, a latency window, a budget over time."""

from __future__ import annotations

import math


class PeakEwma:
    """An endpoint's latency, in seconds: jumps to a peak, forgets it over ``decay`` seconds.

    Finagle's peak-EWMA: a slow endpoint is believed at once, a recovered one slowly.
    """

    __slots__ = ("_at", "_decay", "_value")

    def __init__(self, decay: float = 10.0) -> None:
        self._decay = decay
        self._value = 0.0
        self._at = 0.0

    def observe(self, latency: float, now: float) -> None:
        if latency > self._value:
            self._value = latency
        else:
            weight = math.exp(-max(0.0, now - self._at) / self._decay)
            self._value = latency + (self._value - latency) * weight
        self._at = now

    def value(self, now: float) -> float:
        """The belief now; an endpoint left alone looks better as time passes."""
        return self._value * math.exp(-max(0.0, now - self._at) / self._decay)


class LatencyWindow:
    """Quantiles of the last ``size`` latencies, in seconds; sorted anew only every ``refresh``."""

    __slots__ = ("_fresh", "_next", "_refresh", "_size", "_sorted", "_values")

    def __init__(self, size: int = 256, refresh: int = 32) -> None:
        self._size = size
        self._refresh = refresh
        self._values: list[float] = []
        self._next = 0
        self._sorted: list[float] = []
        self._fresh = 0

    def observe(self, latency: float) -> None:
        if len(self._values) < self._size:
            self._values.append(latency)
        else:
            self._values[self._next] = latency
            self._next = (self._next + 1) % self._size
        self._fresh += 1
        if self._fresh >= self._refresh:
            self._sorted = sorted(self._values)
            self._fresh = 0

    def quantile(self, q: float) -> float | None:
        """The q-quantile, or None before the first ``refresh`` observations."""
        if not self._sorted:
            return None
        return self._sorted[min(len(self._sorted) - 1, int(q * len(self._sorted)))]


class WindowCount:
    """How many events the last ten seconds saw, in one-second buckets."""

    __slots__ = ("_buckets", "_epoch")

    SECONDS = 10

    def __init__(self) -> None:
        self._buckets = [0] * self.SECONDS
        self._epoch = -1

    def add(self, now: float) -> None:
        epoch = int(now)
        if epoch > self._epoch:
            self._turn(epoch)
        self._buckets[self._epoch % self.SECONDS] += 1

    def total(self, now: float) -> int:
        epoch = int(now)
        if epoch > self._epoch:
            self._turn(epoch)
        return sum(self._buckets)

    def _turn(self, epoch: int) -> None:
        """Forget what has left the window. A clock that stepped back changes nothing."""
        if self._epoch < 0 or epoch - self._epoch >= self.SECONDS:
            self._buckets = [0] * self.SECONDS
        else:
            for second in range(self._epoch + 1, epoch + 1):
                self._buckets[second % self.SECONDS] = 0
        self._epoch = epoch


class WindowedBudget:
    """At most ``ratio`` of the calls of the last ten seconds, plus ``floor`` a second.

    A concurrency ratio collapses when traffic is low or everything fails; a time window does not.
    ``calls`` is counted by its owner; ``burst`` is spendable at once.
    """

    __slots__ = ("_burst", "_calls", "_floor", "_ratio", "_spent")

    def __init__(
        self, calls: WindowCount, *, ratio: float, floor: float = 0.0, burst: float = 0.0
    ) -> None:
        self._calls = calls
        self._ratio = ratio
        self._floor = floor
        self._burst = burst
        self._spent = WindowCount()

    def balance(self, now: float) -> float:
        """How much may be spent now."""
        earned = self._ratio * self._calls.total(now) + self._floor * WindowCount.SECONDS
        return earned + self._burst - self._spent.total(now)

    def withdraw(self, now: float) -> bool:
        """Spend one if the balance allows it."""
        if self.balance(now) < 1.0:
            return False
        self._spent.add(now)
        return True
