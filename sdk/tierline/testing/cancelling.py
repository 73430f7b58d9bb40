"""A caller that gives up at a chosen await, so that a test can try every one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class _GivenUp:
    """Awaits a coroutine and cancels its own task right after the n-th time it has to wait."""

    def __init__(self, work: Coroutine[Any, Any, None], at: int) -> None:
        self._work = work
        self._at = at

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        waits = 0
        thrown: BaseException | None = None
        while True:
            try:
                # What is yielded is whatever the coroutine waits for; the task takes it from us.
                pending = next(steps) if thrown is None else steps.throw(thrown)
            except StopIteration:
                return
            if waits == self._at:
                task = asyncio.current_task()
                assert task is not None, "a call runs in a task"
                asyncio.get_running_loop().call_soon(task.cancel)
            waits += 1
            try:
                yield pending
                thrown = None
            except BaseException as error:  # handed on to the coroutine, whatever it is
                thrown = error


async def give_up(work: Coroutine[Any, Any, None], at: int) -> None:
    """Run ``work``; its caller gives up at its await number ``at`` (from 0), if it gets there."""
    await _GivenUp(work, at)
