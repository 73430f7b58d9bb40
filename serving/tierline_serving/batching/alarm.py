"""One timer that rings at the earliest of many instants, set anew only for an earlier one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls ``act`` on the loop, once, at the earliest instant it was armed for since, until it is
    silenced."""

    __slots__ = ("_act", "_at", "_timer")

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("inf")

    def arm(self, loop: asyncio.AbstractEventLoop, at: float, now: float) -> None:
        """Ring at ``at`` too; infinity never rings."""
        if at < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = loop.call_later(max(0.0, at - now), self._ring)

    def silence(self) -> None:
        """Never act again, from any thread: a timer still running must not keep in memory what
        was closed."""
        self._act = None

    def _ring(self) -> None:
        self._timer, self._at = None, float("inf")
        if self._act is not None:
            self._act()
