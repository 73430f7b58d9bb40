"""The phases of a server's life, and what each one lets it do."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a server is between its start and its end."""

    STARTING = "starting"  # listening, warming up: alive, not ready
    READY = "ready"
    DRAINING = "draining"  # answers what comes, asks everybody to leave
    STOPPED = "stopped"


class Event(Enum):
    """What moves a server on."""

    WARMED = "warmed"
    DRAIN = "drain"
    STOP = "stop"


TRANSITIONS = {
    (Phase.STARTING, Event.WARMED): Phase.READY,
    (Phase.STARTING, Event.DRAIN): Phase.DRAINING,
    (Phase.READY, Event.DRAIN): Phase.DRAINING,
    (Phase.STARTING, Event.STOP): Phase.STOPPED,
    (Phase.READY, Event.STOP): Phase.STOPPED,
    (Phase.DRAINING, Event.STOP): Phase.STOPPED,
}


class Lifecycle:
    """The one phase a server is in. An illegal step raises ValueError and changes nothing."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING

    def on(self, event: Event) -> Phase:
        """Move on; returns the new phase."""
        target = TRANSITIONS.get((self.phase, event))
        if target is None:
            raise ValueError(f"a {self.phase.value} server cannot take the event {event.value!r}")
        self.phase = target
        return target

    @property
    def is_ready(self) -> bool:
        return self.phase is Phase.READY

    @property
    def takes_work(self) -> bool:
        """Whether score requests are answered: also while draining, until the listener closes."""
        return self.phase in (Phase.READY, Phase.DRAINING)

    @property
    def asks_to_leave(self) -> bool:
        """Whether answers carry ``Connection: close``."""
        return self.phase in (Phase.DRAINING, Phase.STOPPED)
