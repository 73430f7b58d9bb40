"""A change that a sibling cannot follow is made nowhere, and ends in one typed error."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tierline import ModelFailed
from tierline_serving.workers.family import Commit, Family, Question, worker_socket

LOAD: Question = {"do": "load", "bundle": "b2"}


class Worker:
    """Counts what it prepared and committed."""

    def __init__(self) -> None:
        self.prepared = self.committed = 0
        self.left = asyncio.Event()

    @asynccontextmanager
    async def prepare(self, _: Question) -> AsyncIterator[Commit]:
        self.prepared += 1
        try:
            yield self.commit
        finally:
            self.left.set()

    def commit(self) -> str:
        self.committed += 1
        return "b2"


def _leave_a_socket_nobody_listens_on(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))


async def _hung_up() -> None:
    """Let the loop close the sibling's end of the connection too."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_sibling_that_died_ends_a_change_in_a_typed_error_and_nothing_is_committed(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        mine, sibling = Worker(), Worker()
        family = Family(tmp_path, 1)
        await family.open(lambda: b"", sibling.prepare)
        _leave_a_socket_nobody_listens_on(worker_socket(tmp_path, 2))
        with pytest.raises(ModelFailed, match=r"worker 2 does not answer .* nothing was changed"):
            await Family(tmp_path, 0).change(LOAD, mine.prepare(LOAD))
        await sibling.left.wait()
        await _hung_up()
        await family.close()
        assert (mine.prepared, mine.committed, sibling.committed) == (1, 0, 0)

    asyncio.run(scenario())


def test_a_change_is_committed_once_in_every_worker_that_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        mine, sibling = Worker(), Worker()
        family = Family(tmp_path, 1)
        await family.open(lambda: b"", sibling.prepare)
        assert await Family(tmp_path, 0).change(LOAD, mine.prepare(LOAD)) == "b2"
        await sibling.left.wait()
        await _hung_up()
        await family.close()
        assert (mine.committed, sibling.prepared, sibling.committed) == (1, 1, 1)

    asyncio.run(scenario())


def test_a_sibling_that_hangs_up_before_it_committed_ends_in_a_typed_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        mine, sibling = Worker(), Worker()
        family = Family(tmp_path, 1)
        await family.open(lambda: b"", sibling.prepare)

        def dies() -> str:
            raise BrokenPipeError

        sibling.commit = dies  # type: ignore[method-assign]
        with pytest.raises(ModelFailed, match=r"worker 1: it hung up"):
            await Family(tmp_path, 0).change(LOAD, mine.prepare(LOAD))
        await _hung_up()
        await family.close()
        assert mine.committed == 1

    asyncio.run(scenario())
