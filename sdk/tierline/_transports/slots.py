"""How many requests of an event loop may be under way, and who is next when all slots are taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from tierline._exceptions import AttemptTimedOut


class Slots:
    """A fixed number of slots, handed to the waiting in the order they came."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def acquire(self, deadline: float) -> None:
        """Wait for a slot. Raises AttemptTimedOut at ``deadline`` (the loop's clock)."""
        if self.free:
            self.free -= 1
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        timer = self._loop.call_at(deadline, _expire, turn)
        try:
            await turn
        except TimeoutError as error:
            raise AttemptTimedOut("no connection came free within the timeout") from error
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # the slot came as the caller left: it is the next one's
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(ValueError):  # release() took it out already
                self._waiting.remove(turn)

    def release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
