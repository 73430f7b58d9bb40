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


class WindowedBudget:
    """At most ``ratio`` of the deposits of the last ten seconds, plus ``floor`` a second.

    A concurrency ratio collapses when traffic is low or everything fails; a time window does not.
    Deposits and withdrawals are counted in ten one-second buckets. ``burst`` is spendable at once.
    """

    __slots__ = ("_burst", "_deposits", "_epoch", "_floor", "_ratio", "_spent")

    SECONDS = 10

    def __init__(self, ratio: float, floor: float, burst: float = 0.0) -> None:
        self._ratio = ratio
        self._floor = floor
        self._burst = burst
        self._deposits = [0] * self.SECONDS
        self._spent = [0] * self.SECONDS
        self._epoch = -1

    def deposit(self, now: float) -> None:
        self._turn(now)
        self._deposits[self._epoch % self.SECONDS] += 1

    def balance(self, now: float) -> float:
        """How much may be spent now."""
        self._turn(now)
        earned = self._ratio * sum(self._deposits) + self._floor * self.SECONDS + self._burst
        return earned - sum(self._spent)

    def withdraw(self, now: float) -> bool:
        """Spend one if the balance allows it."""
        if self.balance(now) < 1.0:
            return False
        self._spent[self._epoch % self.SECONDS] += 1
        return True

    def _turn(self, now: float) -> None:
        epoch = int(now)
        if epoch <= self._epoch:  # the same second, or a clock that stepped back
            return
        if self._epoch < 0 or epoch - self._epoch >= self.SECONDS:
            self._deposits = [0] * self.SECONDS
            self._spent = [0] * self.SECONDS
        else:
            for second in range(self._epoch + 1, epoch + 1):
                self._deposits[second % self.SECONDS] = 0
                self._spent[second % self.SECONDS] = 0
        self._epoch = epoch
