"""What is broken when: faults at given shares of the calls, and what really happened, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``act`` is called once ``share`` of the calls have been answered."""

    share: float
    label: str
    act: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened ``at`` seconds after the load began."""

    at: float
    label: str


@dataclass(slots=True)
class Director:
    """Carries out the faults as the load goes on. Call ``step`` often, from the main thread.

    ``awaited`` maps the label of something that is only ready after a while (a restarted server)
    to the question whether it is.
    """

    faults: Sequence[Fault]
    total: int
    events: list[Event] = field(default_factory=list)
    awaited: dict[str, Callable[[], bool]] = field(default_factory=dict)
    _next: int = 0

    def step(self, done: int, at: float) -> list[Event]:
        """Act on what is due after ``done`` answered calls; returns what happened just now."""
        before = len(self.events)
        while self._next < len(self.faults) and done >= self.faults[self._next].share * self.total:
            fault = self.faults[self._next]
            self._next += 1
            fault.act()
            self.events.append(Event(at=at, label=fault.label))
        for label in [label for label, is_ready in self.awaited.items() if is_ready()]:
            del self.awaited[label]
            self.events.append(Event(at=at, label=label))
        return self.events[before:]
