"""What happened, event by event, and one hash of it: same seed, same hash, in any process."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

Detail = str | int | float


class TraceEvent(NamedTuple):
    """One thing that happened at one virtual instant."""

    at: float
    what: str
    details: tuple[Detail, ...]

    def __str__(self) -> str:
        return (
            f"{self.at:10.6f}  {self.what:<10} {' '.join(str(detail) for detail in self.details)}"
        )


class Trace:
    """The events of one run, in order."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []

    def add(self, at: float, what: str, *details: Detail) -> None:
        """Write down one event."""
        self.events.append(TraceEvent(at, what, details))

    def digest(self) -> str:
        """32 hex digits over every event, times exact to the last bit."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr(self.events).encode())
        return digest.hexdigest()

    def __str__(self) -> str:
        return "\n".join(str(event) for event in self.events)
