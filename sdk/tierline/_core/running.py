"""An attempt that is out: what the core must remember to settle it."""

from __future__ import annotations

from tierline._core.breaker import Breaker, Permit
from tierline._core.fleet import EndpointState, TierState


class Running:
    """An attempt that has not reported yet."""

    __slots__ = ("breaker", "endpoint", "kind", "permit", "started", "tier")

    def __init__(
        self,
        kind: str,
        tier: TierState,
        endpoint: EndpointState,
        breaker: Breaker,
        permit: Permit,
        started: float,
    ) -> None:
        self.kind = kind
        self.tier = tier
        self.endpoint = endpoint
        self.breaker = breaker
        self.permit = permit
        self.started = started
