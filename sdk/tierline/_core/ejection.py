"""Which endpoints of a tier are left out for a while, and how those come back.

The breaker judges one (endpoint, model); this judges the endpoint. It is left out for every model
when the trouble concerns more than one, or when nobody could be reached there at all; as long as
only one model fails, only that model stays away. Probes of health take an endpoint out and bring it
back by their own count; an answer to a probe does not pardon what real calls have shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tierline._config import EjectionPolicy
from tierline._core.windows import OutcomeWindow

PEERS_FACTOR = 2.0  # an outlier fails at least this many times as often as its peers


class Standing:
    """One endpoint: in, out, or coming back. ``is_plain`` is True when nothing at all is the
    matter, which is all that a call looks at on most days."""

    __slots__ = (
        "_ejections",
        "_failed_model",
        "_policy",
        "_probe_down",
        "_returned_at",
        "_scope",
        "_several_at",
        "_streak",
        "_until",
        "_window",
        "is_plain",
        "ramp_from",
    )

    def __init__(self, policy: EjectionPolicy) -> None:
        self._policy = policy
        self._window = OutcomeWindow(policy.window)
        self._streak = 0
        self._failed_model = ""
        self._several_at = -math.inf  # when two models were last seen to fail
        self._until: float | None = None  # out until then
        self._scope: str | None = None  # the one model it is out for; None: all
        self._probe_down = False
        self._ejections = 0  # without a healthy spell between, for the doubling time
        self._returned_at: float | None = None
        self.ramp_from: float | None = None  # slow start began then
        self.is_plain = True

    # -- what a call asks --------------------------------------------------------------------

    def is_out(self, model: str, now: float) -> bool:
        """Whether this endpoint is to be left out for this model."""
        if self.is_plain:
            return False
        self._advance(now)
        return self._probe_down or (self._until is not None and self._scope in (None, model))

    def share(self, now: float) -> float:
        """The part of its usual share that it should get: below 1 while it comes back."""
        if self.ramp_from is None:
            return 1.0
        span = self._policy.slow_start
        grown = (now - self.ramp_from) / span if span else 1.0
        if grown >= 1.0:
            self.ramp_from = None
            self._settle()
            return 1.0
        return max(self._policy.slow_start_from, grown)

    # -- what happened -----------------------------------------------------------------------

    def succeeded(self, now: float) -> None:
        """An attempt was answered here."""
        self._streak = 0
        self._window.good(now)

    def failed(self, model: str, now: float, *, unreached: bool) -> bool:
        """An attempt failed here; ``unreached`` says that it did not even arrive. Whether that is
        reason enough to eject it, were it an outlier among its peers."""
        if unreached or (self._failed_model not in ("", model) and self._streak):
            self._several_at = now
        self._failed_model = model
        self._streak += 1
        self._window.bad(now)
        if self._streak >= self._policy.consecutive:
            return True
        good, bad, _ = self._window.totals(now)
        seen = good + bad
        return seen >= self._policy.minimum_calls and bad >= self._policy.failure_share * seen

    def failure_share(self, now: float) -> float:
        """Of the attempts in the window; 0.0 when there were none."""
        good, bad, _ = self._window.totals(now)
        return bad / (good + bad) if bad else 0.0

    def eject(self, now: float, jitter: float) -> None:
        """Leave it out from now on. ``jitter`` is in [0, 1)."""
        policy = self._policy
        if self._returned_at is not None and now - self._returned_at >= policy.healthy_for:
            self._ejections = 0
        span = min(policy.eject_cap, policy.eject_for * 2.0 ** min(self._ejections, 60))
        span *= 1.0 + policy.jitter * (2.0 * jitter - 1.0)
        self._ejections += 1
        several = now - self._several_at < policy.window
        self._scope = None if several else self._failed_model
        self._until = now + span
        self._returned_at = None
        self.ramp_from = None
        self._streak = 0
        self._window.clear()
        self.is_plain = False

    def probed(self, *, down: bool, now: float) -> None:
        """The probes of health have made up their mind about this endpoint."""
        if self._probe_down and not down:
            self.start_slowly(now)
        self._probe_down = down
        self._settle()

    def proven(self, now: float) -> None:
        """Real calls were answered here till its breaker closed: that is better evidence than any
        waiting. It comes back, unless the probes of health say otherwise."""
        if self._until is not None:
            self._until = None
            self._returned_at = now
        self.start_slowly(now)

    def start_slowly(self, now: float) -> None:
        """It comes back: its share grows from a little to the whole."""
        if self._policy.slow_start and self._policy.slow_start_from < 1.0:
            self.ramp_from = now
        self._settle()

    @property
    def is_down(self) -> bool:
        """Whether the probes of health keep it out."""
        return self._probe_down

    @property
    def is_ejected(self) -> bool:
        """Whether outliers' rules keep it out."""
        return self._until is not None

    def advance(self, now: float) -> None:
        """Let it back in when its time has come."""
        if not self.is_plain:
            self._advance(now)

    def _advance(self, now: float) -> None:
        if self._until is not None and now >= self._until:
            self._returned_at = self._until
            self._until = None
            self.start_slowly(now)

    def _settle(self) -> None:
        self.is_plain = self._until is None and not self._probe_down and self.ramp_from is None


class Outliers:
    """Judges the endpoints of one tier against each other, and keeps enough of them in."""

    __slots__ = ("_policy", "_standings")

    def __init__(self, policy: EjectionPolicy, standings: Sequence[Standing]) -> None:
        self._policy = policy
        self._standings = standings

    @property
    def most_out(self) -> int:
        """How many may be ejected at once: one at least, and never the last one."""
        count = len(self._standings)
        return min(count - 1, max(1, int(self._policy.max_share * count)))

    def failed(
        self, standing: Standing, model: str, now: float, *, unreached: bool, jitter: float
    ) -> bool:
        """An attempt failed at this endpoint; whether it was ejected for it."""
        if not standing.failed(model, now, unreached=unreached) or standing.is_ejected:
            return False
        for other in self._standings:
            other.advance(now)
        if sum(other.is_ejected for other in self._standings) >= self.most_out:
            return False
        peers = [other for other in self._standings if other is not standing]
        shares = [other.failure_share(now) for other in peers]
        if standing.failure_share(now) < PEERS_FACTOR * sum(shares) / len(shares):
            return False  # its peers fare no better: leaving it out would help nobody
        standing.eject(now, jitter)
        return True
