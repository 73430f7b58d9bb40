"""An attempt that is out: what the core must remember to settle it."""

from __future__ import annotations

from tierline._core.breaker import Breaker, Permit
from tierline._core.endpoints import EndpointState, Served
from tierline._core.estimators import LatencyWindow
from tierline._core.tiers import TierState
from tierline._core.timeouts import TICK, stood_still
from tierline._types import Attempt


class Running:
    """An attempt that has not reported yet. ``allowed`` is its timeout in seconds, ``suspect``
    the breaker and the permit of a bundle under suspicion, when the endpoint serves one."""

    __slots__ = (
        "allowed",
        "breaker",
        "endpoint",
        "kind",
        "latencies",
        "permit",
        "reduced",
        "served",
        "started",
        "suspect",
        "tier",
    )

    def __init__(
        self,
        kind: str,
        tier: TierState,
        endpoint: EndpointState,
        served: Served,
        permit: Permit,
        latencies: LatencyWindow,
        started: float,
        allowed: float,
        suspect: tuple[Breaker, Permit] | None = None,
        reduced: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.tier = tier
        self.endpoint = endpoint
        self.served = served
        self.breaker = served.breaker
        self.permit = permit
        self.latencies = latencies
        self.started = started
        self.allowed = allowed
        self.suspect = suspect
        self.reduced = reduced  # the fields its endpoint did not see as they are

    def held_up(self, now: float) -> bool:
        """Whether this process stood still while the attempt was out, so that it came to nothing
        through no doing of its endpoint."""
        return stood_still(self.started + self.allowed, self.allowed, now) and self._is_beyond

    def found_late(self, now: float) -> bool:
        """Whether its answer was there before anybody looked: the timer that should have ended it
        was late, too, so that nobody knows how long the endpoint took."""
        return now - self.started - self.allowed > TICK and self._is_beyond

    @property
    def is_hurried(self) -> bool:
        """Whether its call left it less time than one answer in twenty of its tier takes when all
        is well: that it came to nothing is no news of the endpoint. An attempt of which the tier's
        own tail is the limit never is, nor is any while the tier has answered nobody."""
        return self.allowed < self.latencies.usually_late

    @property
    def _is_beyond(self) -> bool:
        """What an endpoint within this process takes is always its own doing."""
        return not self.endpoint.is_within

    def ended(self, number: int, outcome: str, begun: float, now: float) -> Attempt:
        """The line it leaves in the call's answer or error."""
        started, ended = self.started - begun, now - begun
        endpoint = self.endpoint.url
        name = self.tier.name
        return Attempt(number, self.kind, name, endpoint, started, ended, outcome, self.reduced)
