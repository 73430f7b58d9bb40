"""An attempt that is out: what the core must remember to settle it."""

from __future__ import annotations

from tierline._core.breaker import Breaker, Permit
from tierline._core.fleet import EndpointState, TierState
from tierline._types import Attempt


class Running:
    """An attempt that has not reported yet."""

    __slots__ = ("breaker", "endpoint", "kind", "permit", "reduced", "started", "tier")

    def __init__(
        self,
        kind: str,
        tier: TierState,
        endpoint: EndpointState,
        breaker: Breaker,
        permit: Permit,
        started: float,
        reduced: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.tier = tier
        self.endpoint = endpoint
        self.breaker = breaker
        self.permit = permit
        self.started = started
        self.reduced = reduced  # the fields its endpoint did not see as they are

    def ended(self, number: int, outcome: str, begun: float, now: float) -> Attempt:
        """The line it leaves in the call's answer or error."""
        started, ended = self.started - begun, now - begun
        endpoint = self.endpoint.url
        name = self.tier.name
        return Attempt(number, self.kind, name, endpoint, started, ended, outcome, self.reduced)
