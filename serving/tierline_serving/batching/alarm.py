"""One timer that rings at the earliest of many instants, set anew only for an earlier one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakMethod


class Alarm:
    """Calls ``act``, a bound method, on the loop, once, at the earliest instant it was armed for
    since. Its owner is held weakly: a timer must not keep what was closed in memory."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = WeakMethod(act)
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("inf")

    def arm(self, loop: asyncio.AbstractEventLoop, at: float, now: float) -> None:
        """Ring at ``at`` too; infinity never rings."""
        if at < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = loop.call_later(max(0.0, at - now), self._ring)

    def _ring(self) -> None:
        self._timer, self._at = None, float("inf")
        act = self._act()
        if act is not None:
            act()
