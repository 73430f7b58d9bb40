"""One value per event loop: connections belong to the loop, and the process, that opened them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from tierline._transports.fork import forget_after_fork

T = TypeVar("T")

_abandoned: list[
    object
] = []  # kept in a forked child: to close them would reach the parent's epoll


class PerLoop(Generic[T]):
    """Creates a value on first use in each event loop and closes it with the loop.

    ``asyncio.run`` and its like close every async generator of a loop before the loop itself; a
    generator that waits for just that is how the value learns of it.
    """

    def __init__(self, create: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._create = create
        self._close = close
        self._held: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}
        forget_after_fork(self)

    def get(self) -> T:
        """The running loop's value."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        return held[0] if held is not None else self._hold(loop)

    async def aclose(self) -> None:
        """Close the values: the running loop's at once, those of other live loops over there."""
        here = asyncio.get_running_loop()
        for loop, (_, guard) in list(self._held.items()):
            if loop is here:
                await guard.aclose()
            elif not loop.is_closed():
                asyncio.run_coroutine_threadsafe(_finish(guard), loop)

    def forget(self) -> None:
        """In a forked child: begin anew."""
        _abandoned.append(self._held)
        self._held = {}

    def _hold(self, loop: asyncio.AbstractEventLoop) -> T:
        for other in [other for other in self._held if other.is_closed()]:
            del self._held[other]
        value = self._create()
        guard = self._guard(loop, value)
        with contextlib.suppress(StopIteration):  # how a coroutine step hands over a yielded value
            guard.__anext__().send(None)
        self._held[loop] = (value, guard)
        return value

    async def _guard(self, loop: asyncio.AbstractEventLoop, value: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._held.pop(loop, None)
            await self._close(value)


async def _finish(guard: AsyncGenerator[None, None]) -> None:
    await guard.aclose()
