"""How many bytes of request bodies an endpoint holds at once. Pure bookkeeping."""

from __future__ import annotations

from typing import Final

HELD_FROM: Final = 64 * 1024  # smaller bodies are bounded by the number of connections


class BodyBudget:
    """Counts the large bodies being read or answered; says no beyond ``limit`` bytes."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Take a body of ``size`` bytes in, if there is room."""
        if size <= HELD_FROM:
            return True
        if self.held + size > self.limit:
            return False
        self.held += size
        return True

    def grow(self, old: int, new: int) -> bool:
        """A body already taken in has grown; when there is no room, it is given back."""
        self.release(old)
        return self.take(new)

    def release(self, size: int) -> None:
        """A body of ``size`` bytes is not needed any more."""
        if size > HELD_FROM:
            self.held -= size
