"""How many attempts may be out at one endpoint, and which kind of call gives way first.

Four rules move the limit.
- A refusal for load, or a timeout, cuts it to nine tenths, once a round trip at most. What may be
  shed, when it is refused, cuts its own room only, and good answers give it back likewise: in an
  overload it is refused most, and there may be room for what matters more.
- While it lies below where the cuts began, every answer in good time raises it by one: it doubles
  each round trip, as TCP's slow start does, and a fault that has passed is forgotten at once.
- Once a second, and only when half of the limit is in use, it grows by its root, or shrinks in
  proportion when answers no longer come in good time.
- When the endpoint's breaker has closed again, it starts anew from a few: the crowd that waited
  outside must not be let in all at once, or the breaker opens again and nothing ever heals.

In good time is what takes no longer than usual, or no more than a quarter of the time its call has:
a queue that nobody feels is no reason to refuse anyone. Live traffic is never held back to measure.
"""

from __future__ import annotations

import math

from tierline._config import Criticality, LimiterPolicy

CUT = 0.9
PAUSE = 0.05  # seconds; the shortest time between two cuts
ANEW = 8.0  # attempts that may be out when the breaker has closed again
GOOD_SHARE = 0.25  # of the time a call has
DOWN, UP = 0.5, 0.05  # how fast the long run follows a latency that falls, and one that rises
LEAST_GRADIENT = 0.5  # one update halves the limit at most
SHARES = {Criticality.CRITICAL: 1.0, Criticality.DEFAULT: 0.9, Criticality.SHEDDABLE: 0.5}


class Limiter:
    """The limit of one endpoint. The owner counts who is out and compares that with ``room``."""

    __slots__ = (
        "_before",
        "_count",
        "_cut_at",
        "_due",
        "_good",
        "_long",
        "_peak",
        "_policy",
        "_shed",
        "_shed_at",
        "_sum",
        "limit",
        "room",
    )

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self._sum = 0.0
        self._count = 0
        self._peak = 0
        self._long: float | None = None  # the latency of the long run
        self._good = 0.0  # seconds; what takes no longer comes in good time
        self._due = -math.inf
        self._cut_at = -math.inf
        self._before = 0.0  # the limit before the cuts began
        self._shed = 1.0  # the part of their room that is left to calls that may be shed
        self._shed_at = -math.inf
        self.limit = 0.0
        self.room: dict[Criticality, int] = {}  # how many may be out when a call of a kind comes
        self._set(float(policy.initial))

    def answered(self, latency: float, inflight: int, span: float, now: float) -> None:
        """An attempt was answered; ``inflight`` were out, itself included, and its call has
        ``span`` seconds in all."""
        self._sum += latency
        self._count += 1
        if inflight > self._peak:
            self._peak = inflight
        is_cut = self.limit < self._before
        if (is_cut or self._shed < 1.0) and latency <= max(self._good, GOOD_SHARE * span):
            self._shed = min(1.0, self._shed + 1.0 / self.limit)
            self._set(min(self._before, self.limit + 1.0) if is_cut else self.limit)
        if not is_cut and self._count >= self._policy.samples and now >= self._due:
            self._update(span, now)

    def dropped(self, now: float) -> None:
        """An attempt was refused for load, or was not answered in time."""
        if now - self._cut_at < max(PAUSE, self._long or 0.0):
            return
        self._cut_at = now
        self._before = max(self._before, self.limit)
        self._set(self.limit * CUT)

    def shed(self, now: float) -> None:
        """An attempt that may be shed was refused for load: there may be room for others."""
        if now - self._shed_at < max(PAUSE, self._long or 0.0):
            return
        self._shed_at = now
        self._shed *= CUT
        self._set(self.limit)

    def start_anew(self) -> None:
        """The endpoint was away: begin with a few, and let every good answer bring one more."""
        if self.limit > ANEW:
            self._before = max(self._before, self.limit)
            self._set(ANEW)

    def _update(self, span: float, now: float) -> None:
        short = self._sum / self._count
        if self._long is None:
            self._long = short
        self._long += (DOWN if short < self._long else UP) * (short - self._long)
        self._good = self._policy.tolerance * self._long
        gradient = max(self._good, GOOD_SHARE * span) / short if short > 0 else 1.0
        if self._peak >= self.limit / 2:
            if gradient >= 1.0:
                self._set(self.limit + math.sqrt(self.limit))
            else:
                self._set(self.limit * max(LEAST_GRADIENT, gradient))
            self._before = self.limit
        self._sum, self._count, self._peak = 0.0, 0, 0
        self._due = now + self._policy.update

    def _set(self, limit: float) -> None:
        self.limit = max(float(self._policy.minimum), min(float(self._policy.maximum), limit))
        self.room = {kind: max(1, int(self.limit * share)) for kind, share in SHARES.items()}
        if self._shed < 1.0:
            sheddable = int(self.limit * SHARES[Criticality.SHEDDABLE] * self._shed)
            self.room[Criticality.SHEDDABLE] = max(1, sheddable)
