"""An event loop in virtual time: no waiting, no sockets, the ready queue shuffled by a seed.

Same seed, same order of every callback. A loop with nothing left to do is a deadlock, and an error.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

Result = TypeVar("Result")
FORGET = 512  # timers of the world remembered before those that are over are dropped


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set, but the work is not done."""


class SimLoop(asyncio.BaseEventLoop):
    """Time jumps from timer to timer; what is ready at one instant runs in a seeded order.

    ``complaints`` are the exceptions nobody took (a task's, a callback's): a test should find none.
    """

    # The scheduler's own state, as asyncio.BaseEventLoop keeps it since Python 3.4.
    _ready: deque[events.Handle]
    _scheduled: list[events.TimerHandle]
    _stopping: bool

    def __init__(self, seed: int | str = 0, *, shuffle: bool = True) -> None:
        super().__init__()
        self.set_debug(False)
        self._now = 0.0
        self._order = Random(f"{seed}/loop") if shuffle else None
        self._world: list[asyncio.TimerHandle] = []
        self.complaints: list[str] = []
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def in_the_world(
        self, delay: float, callback: Callable[..., object], *arguments: object
    ) -> None:
        """Like ``call_later``, for what happens outside of the client's process: it happens in its
        time even while the process stands still."""
        self._world.append(self.call_later(delay, callback, *arguments))
        if len(self._world) > FORGET:
            self._world = [timer for timer in self._world if timer._scheduled]  # type: ignore[attr-defined]  # as BaseEventLoop marks them

    def stall(self, seconds: float) -> None:
        """The process stands still for so long: no callback of its own runs, the world goes on."""
        until = self._now + seconds
        while True:
            due = [t for t in self._world if t._scheduled and t.when() <= until]  # type: ignore[attr-defined]  # as above
            if not due:
                break
            timer = min(due, key=asyncio.TimerHandle.when)
            self._scheduled.remove(timer)
            heapq.heapify(self._scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]  # as above
            self._now = max(self._now, timer.when())
            timer._run()
        self._now = max(self._now, until)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end, then close. Raises Deadlock when it can never end."""
        try:
            return self.run_until_complete(work)
        finally:
            self.close()

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready and not self._stopping:
            self._jump()
        now = self._now
        while scheduled and scheduled[0].when() <= now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]  # as BaseEventLoop does
            if not timer.cancelled():
                ready.append(timer)
        if self._order is not None and len(ready) > 1:
            handles = list(ready)
            self._order.shuffle(handles)
            ready.clear()
            ready.extend(handles)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _jump(self) -> None:
        """Move the clock to the next timer that is still wanted."""
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        if not scheduled:
            raise Deadlock(f"at {self._now:.6f} s nothing is ready and no timer is set")
        self._now = max(self._now, scheduled[0].when())

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """Cancelled timers are dropped where they are met."""

    def _write_to_self(self) -> None:
        """Nothing sleeps in a selector, so nothing has to be woken."""

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {error!r}")
