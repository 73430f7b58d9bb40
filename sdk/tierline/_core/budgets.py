"""What may be spent over time: on retries, hedges and failovers into a tier, and on escalations."""

from __future__ import annotations

import math

from tierline._config import Criticality

# The part of a tier's budget that each kind of call may use up: in an overload what may be shed is
# refused most, and would leave the others without a second attempt.
SHARES = {Criticality.CRITICAL: 1.0, Criticality.DEFAULT: 1.0, Criticality.SHEDDABLE: 0.5}
BROKE = 0.1  # seconds after a refusal in which nobody counts on a further attempt


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

    def capacity(self, now: float) -> float:
        """How much there would be to spend, had nothing been spent."""
        earned = self._ratio * self._calls.total(now) + self._floor * WindowCount.SECONDS
        return earned + self._burst

    def balance(self, now: float, share: float = 1.0) -> float:
        """How much may be spent now, by who may bring it to ``share`` of the whole."""
        return share * self.capacity(now) - self._spent.total(now)

    def withdraw(self, now: float, share: float = 1.0) -> bool:
        """Spend one if the balance allows it."""
        if self.balance(now, share) < 1.0:
            return False
        self._spent.add(now)
        return True


class TierBudget:
    """What retries, hedges and failovers may add to what was asked of one tier: a share ``ratio``
    of it, and then one of the process's ``floor``, which all tiers share. What was earned and spent
    in busier times and is not yet forgotten counts against the floor: share and floor together hold
    in every window of ten seconds in which anything is spent."""

    __slots__ = ("_earned", "_extra", "_floor", "broke_until", "requests")

    def __init__(self, ratio: float, floor: WindowedBudget) -> None:
        self.requests = WindowCount()  # calls meant for this tier, escalations included
        self._earned = WindowedBudget(self.requests, ratio=ratio)
        self._floor = floor
        self.broke_until = -math.inf  # till then nothing more can be expected of it
        self._extra = WindowCount()  # attempts beyond those, however they were paid for

    def affords(self, now: float, share: float = 1.0) -> bool:
        """Whether ``withdraw`` would succeed."""
        earned = self._earned.balance(now, share)
        return earned >= 1.0 or self._floor.balance(now, share) + min(0.0, earned) >= 1.0

    def withdraw(self, now: float, share: float = 1.0) -> bool:
        """Pay for one more attempt, if there is something to pay with. Who may use a ``share`` of
        it only leaves the rest to others."""
        if not self.affords(now, share):
            if share >= 1.0 or not self.affords(now):
                self.broke_until = now + BROKE
            return False
        if not self._earned.withdraw(now, share):
            self._floor.withdraw(now)
        self._extra.add(now)
        return True

    def let_through(self, now: float) -> None:
        """One more attempt that is not paid for: the one before it never left."""
        self._extra.add(now)

    def amplification(self, now: float) -> float:
        """Attempts ÷ requests of the last ten seconds; 1.0 when nothing was asked."""
        asked = self.requests.total(now)
        return 1.0 + self._extra.total(now) / asked if asked else 1.0
