"""Which kept-alive connection is used next, and which have had their time. Pure: told the time."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Final, Generic, Protocol, TypeVar

# Servers keep an idle connection for 5 s by custom; we let go first, or race their hang-up.
IDLE_EXPIRY: Final = 4.0
# Old connections are replaced, so that a fleet behind one address is found anew; spread by 10 %,
# so that connections opened together do not all close together.
MAX_AGE: Final = 300.0
AGE_SPREAD: Final = 0.1
MAX_CONNECTIONS: Final = 64


class Keepable(Protocol):
    """What a pool keeps. No new request from ``retire_at`` on; ``is_open``: not closed yet."""

    retire_at: float

    @property
    def is_open(self) -> bool: ...


C = TypeVar("C", bound=Keepable)


class IdleConnections(Generic[C]):
    """The idle connections of one pool; the last used is the next used, so the rest can age."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, C]] = deque()  # (idle since, connection), oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, connection: C, now: float) -> bool:
        """Keep a connection. False: it is past its time or closed; the caller closes it."""
        if now >= connection.retire_at or not connection.is_open:
            return False
        self._entries.append((now, connection))
        return True

    def take(self, now: float) -> tuple[C | None, list[C]]:
        """The connection to use, if there is one, and those the caller must close."""
        to_close: list[C] = []
        while self._entries and now - self._entries[0][0] >= IDLE_EXPIRY:
            to_close.append(self._entries.popleft()[1])
        while self._entries:
            _, connection = self._entries.pop()
            if now < connection.retire_at and connection.is_open:
                return connection, to_close
            to_close.append(connection)
        return None, to_close

    def clear(self) -> list[C]:
        """Forget all; the caller closes them."""
        connections = [connection for _, connection in self._entries]
        self._entries.clear()
        return connections


def retirement(now: float, rng: Random) -> float:
    """When a connection opened now takes its last request."""
    return now + MAX_AGE * rng.uniform(1.0 - AGE_SPREAD, 1.0 + AGE_SPREAD)
