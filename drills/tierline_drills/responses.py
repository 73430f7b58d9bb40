"""Which emergency response an alert asks for, and whether it may be carried out now. Pure.

| alert | response | carried out by |
|---|---|---|
| TierLost | switch to the standby | every client, by itself: failover in the SDK |
| EndpointFailing | leave it out | every client, by itself: breaker and ejection |
| NodeSilent | leave it out | every client, by itself: balancing, breaker, ejection |
| NodeDown | restart | the supervisor |
| BundleFailing | roll back | the responder: registry, then every node loads |
| RegistryDamaged | restore | the responder: the newest sound backup, what was damaged kept aside |
| (asked for) | retrain | the responder: `tierline train`, published behind the parity gate |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tierline_drills.alerts.rules import Alert


class Response(StrEnum):
    """What is done, by nobody's hand."""

    BY_CLIENTS = "by clients"
    RESTART = "restart"
    ROLL_BACK = "roll back"
    RESTORE = "restore"


RESPONSES: Mapping[str, Response] = {
    "TierLost": Response.BY_CLIENTS,
    "EndpointFailing": Response.BY_CLIENTS,
    "ErrorBudgetBurning": Response.BY_CLIENTS,
    "NodeSilent": Response.BY_CLIENTS,
    "NodeDown": Response.RESTART,
    "BundleFailing": Response.ROLL_BACK,
    "RegistryDamaged": Response.RESTORE,
}

# Seconds until the same response may be taken for the same thing again: one that did not help must
# not be repeated as fast as the alert can fire.
HOLD: Mapping[Response, float] = {
    Response.BY_CLIENTS: 0.0,
    Response.RESTART: 5.0,
    Response.ROLL_BACK: 60.0,
    Response.RESTORE: 30.0,
}


@dataclass(slots=True)
class Desk:
    """Decides on responses. ``allowed`` are those this drill lets happen: a negative control takes
    them away."""

    allowed: frozenset[Response] = frozenset(Response)
    _taken: dict[tuple[Response, tuple[str, ...]], float] = field(default_factory=dict)

    def decide(self, alert: Alert, now: float) -> Response | None:
        """The response to carry out for this alert, or None."""
        response = RESPONSES.get(alert.name)
        if alert.status != "firing" or response is None or response not in self.allowed:
            return None
        # There is one registry, whatever endpoints suffer; but each node is restarted on its own.
        about = (response, alert.endpoints if response is Response.RESTART else (alert.bundle,))
        if now - self._taken.get(about, float("-inf")) < HOLD[response]:
            return None
        self._taken[about] = now
        return response
