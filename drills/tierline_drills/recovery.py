"""The responder's hands: what it sees of a drill's processes and registry, and how it mends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tierline_drills import priority, storage
from tierline_drills.alerts.rules import Alert, Observed
from tierline_drills.errors import DrillError
from tierline_drills.responder import REGISTRY_EVERY, SERVING_EVERY
from tierline_drills.responses import Response
from tierline_drills.shop import MODEL
from tierline_serving.registry import DEFAULT_CHANNEL

if TYPE_CHECKING:
    from tierline_drills.session import Session


class Recovery:
    """Sees and mends what belongs to one session. Used by the responder's threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen = _Seen()

    def observed(self) -> Observed:
        """Processes that ended, damage of the registry, who serves what."""
        session, seen = self._session, self._seen
        now, fleet = session.now(), session.fleet
        if session.registry is not None and session.shop is not None:
            if now - seen.looked >= REGISTRY_EVERY:
                seen.looked = now
                seen.damage = storage.damage(session.registry, session.shop.trust)
            if now - seen.asked >= SERVING_EVERY:
                seen.asked = now
                seen.serving = {name: fleet.serving(name) for name in fleet.edges}
        return Observed(
            ended=fleet.ended(),
            silent=() if session.canaries is None else session.canaries.silent(),
            registry=seen.damage,
            serving=seen.serving,
        )

    def carry_out(self, response: Response, alert: Alert) -> str:
        """Do what an alert asks for; returns a sentence. Raises TierlineError."""
        match response:
            case Response.RESTART:
                return self._restart(alert.endpoints[0])
            case Response.ROLL_BACK:
                return self._roll_back(alert.bundle)
            case Response.RESTORE:
                return self._restore()
            case Response.BY_CLIENTS:
                return "left to the clients"

    def acknowledged(self) -> None:
        """Remember which publishes were acknowledged until now."""
        if self._session.registry is not None:
            self._seen.published = storage.published(self._session.registry)

    def _restart(self, name: str) -> str:
        session = self._session
        time.sleep(float(session.fleet_settings.get("restart_after", 1.0)))
        gently = priority.can_lift()
        session.fleet.start(name, nice=priority.LOW if gently else 0)
        session.fleet.wait_ready(name)
        session.tell("clear", f"{name} is ready again", (name,))
        return (
            f"restarted {name}, {'giving way to its neighbours' if gently else 'at full priority'}"
        )

    def _roll_back(self, blamed: str) -> str:
        session = self._session
        if session.registry is None or session.shop is None:
            raise DrillError("there is no registry to roll back in")
        current = session.registry.read_channel(MODEL, DEFAULT_CHANNEL).current
        if not current.endswith(blamed.rpartition("@")[2]):
            return f"left alone: the channel does not name {blamed}"
        place = session.registry.roll_back(MODEL, trust=session.shop.trust)
        failed = [why for name in session.fleet.edges if (why := session.fleet.load(name))]
        if failed:
            raise DrillError(f"rolled back to {place.name}, but {'; '.join(failed)}")
        session.count("rolled_back", 1)
        session.tell("restored", f"every edge node serves {place.name}", session.fleet.edges)
        return f"rolled back to {place.name}, loaded by every edge node"

    def _restore(self) -> str:
        session = self._session
        if session.registry is None or session.shop is None:
            raise DrillError("there is no registry to restore")
        taken, refused = storage.restore_newest(
            session.folder / "backups", session.registry, session.shop.trust
        )
        lost = storage.publishes_lost(session.registry, self._seen.published)
        session.count("publishes_lost", lost)
        session.count("backups_refused", len(refused))
        session.tell("restored", f"the registry is back from {taken.name}")
        return f"restored {taken.name}; {len(refused)} newer backup(s) refused"


@dataclass(slots=True)
class _Seen:
    """What was last found of slow things."""

    looked: float = float("-inf")
    asked: float = float("-inf")
    damage: str = ""
    serving: dict[str, str] = field(default_factory=dict)
    published: frozenset[str] = frozenset()
