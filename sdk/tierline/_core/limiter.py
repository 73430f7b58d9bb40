"""How many attempts may be out at one endpoint, and which kind of call gives way first.

Three rules move the limit. A refusal for load, or a timeout, cuts it to nine tenths, once a round
trip at most. A quarter of a second without one lets it double again up to where the cuts began, so
that a fault that has passed is forgotten in a second or two. And once a second the measured latency
of a short window is held against that of the long run: while it is at its usual height and half of
the limit is in use, the limit grows by its root; when it exceeds the tolerance, it shrinks in
proportion. Nothing is learnt from a limit that is not in use, and live traffic is never held back
to measure.
"""

from __future__ import annotations

import math

from tierline._config import Criticality, LimiterPolicy

CUT = 0.9
PAUSE = 0.05  # seconds; the shortest time between two cuts
RECOVERY = 0.25  # seconds without a cut before the limit doubles
EPISODE = 10.0  # seconds without a cut: the next one begins anew, and the doubling ends
DOWN, UP = 0.5, 0.05  # how fast the long run follows a latency that falls, and one that rises
LEAST_GRADIENT = 0.5  # one update halves the limit at most
SHARES = {Criticality.CRITICAL: 1.0, Criticality.DEFAULT: 0.9, Criticality.SHEDDABLE: 0.5}


class Limiter:
    """The limit of one endpoint. The owner counts who is out; ``room`` is what it compares with."""

    __slots__ = (
        "_before",
        "_count",
        "_cut_at",
        "_doubled_at",
        "_due",
        "_long",
        "_peak",
        "_policy",
        "_sum",
        "limit",
        "room",
    )

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self._sum = 0.0
        self._count = 0
        self._peak = 0
        self._long: float | None = None
        self._due = -math.inf
        self._cut_at = -math.inf
        self._doubled_at = -math.inf
        self._before = 0.0  # the limit before the cuts began
        self.limit = 0.0
        self.room: dict[Criticality, int] = {}  # how many may be out when a call of this kind comes
        self._set(float(policy.initial))

    def answered(self, latency: float, inflight: int, now: float) -> None:
        """An attempt was answered; ``inflight`` were out, itself included."""
        self._sum += latency
        self._count += 1
        if inflight > self._peak:
            self._peak = inflight
        if now >= self._due:
            self._update(now)

    def dropped(self, now: float) -> None:
        """An attempt was refused for load, or was not answered in time."""
        if now - self._cut_at < max(PAUSE, self._long or 0.0):
            return
        if now - self._cut_at >= EPISODE:
            self._before = self.limit
        self._cut_at = now
        self._set(self.limit * CUT)

    def _update(self, now: float) -> None:
        policy = self._policy
        if self.limit < self._before and now - self._cut_at < EPISODE:
            rested = now - max(self._cut_at, self._doubled_at) >= RECOVERY
            if rested and self._peak >= self.limit / 2:
                self._doubled_at = now
                self._peak = 0
                self._set(min(self._before, 2.0 * self.limit))
            return
        if self._count < policy.samples:
            return
        short = self._sum / self._count
        gradient = self._gradient(short)
        if self._peak >= self.limit / 2:
            grown = math.sqrt(self.limit) if gradient == 1.0 else 0.0
            self._set(self.limit * gradient + grown)
        self._sum, self._count, self._peak = 0.0, 0, 0
        self._due = now + policy.update

    def _gradient(self, short: float) -> float:
        if self._long is None:
            self._long = short
        gradient = self._policy.tolerance * self._long / short if short > 0 else 1.0
        weight = DOWN if short < self._long else UP
        self._long += weight * (short - self._long)
        return max(LEAST_GRADIENT, min(1.0, gradient))

    def _set(self, limit: float) -> None:
        self.limit = max(float(self._policy.minimum), min(float(self._policy.maximum), limit))
        self.room = {kind: max(1, int(self.limit * share)) for kind, share in SHARES.items()}
