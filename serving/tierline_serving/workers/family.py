"""What the workers of one port say to each other, over unix sockets in a folder of their own.

A connection carries lines of JSON, one answer a line. ``metrics`` and ``ping`` are questions. A
change (``load``, ``unload``, ``roll-back``, ``label``) is prepared when it is asked for, made when
``commit`` follows on the same connection, and dropped when the connection ends without.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from tierline import CallError, ModelFailed, TierlineError

ASK_TIMEOUT: Final = 2.0  # seconds for a sibling to tell its metrics
CHANGE_TIMEOUT: Final = 600.0  # seconds for a sibling to load
DEPARTED: Final = "departed.prom"  # counters of workers that are gone, added up
_MAX_LINE: Final = 64 * 1024 * 1024
_CHANGE_LOCK: Final = "change.lock"

Question = Mapping[str, str]
Commit = Callable[[], str]
Prepare = Callable[[Question], AbstractAsyncContextManager[Commit]]

_log = logging.getLogger("tierline.serving")


class Family:
    """One worker's view of the others. ``number`` is its place, ``folder`` the family's."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._server: asyncio.Server | None = None

    async def open(self, metrics: Callable[[], bytes], prepare: Prepare) -> None:
        """Answer the siblings from now on."""
        place = _socket(self.folder, self.number)
        place.unlink(missing_ok=True)  # left by the worker that had this place before

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await _converse(reader, writer, metrics, prepare)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                _log.warning("a sibling hung up", extra={"why": str(error)})
            finally:
                writer.close()

        self._server = await asyncio.start_unix_server(answer, place, limit=_MAX_LINE)

    async def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()
            _socket(self.folder, self.number).unlink(missing_ok=True)

    async def metrics(self) -> list[bytes]:
        """The siblings' expositions, and what the departed counted; who does not answer in time is
        left out."""
        found = await asyncio.gather(*(ask_metrics(each) for each in self._siblings()))
        texts = [text for text in found if text is not None]
        with contextlib.suppress(FileNotFoundError):
            texts.append((self.folder / DEPARTED).read_bytes())
        return texts

    async def change(self, question: Question, mine: AbstractAsyncContextManager[Commit]) -> str:
        """Make one change in every worker or in none: all prepare it, then all commit. Returns the
        bundle's id. Raises what went wrong with the first that could not."""
        async with self._one_at_a_time(), contextlib.AsyncExitStack() as stack:
            commit = await stack.enter_async_context(mine)
            asked = [self._prepared(stack, each, question) for each in self._siblings()]
            commits = await asyncio.gather(*asked)
            bundle = commit()
            await asyncio.gather(*(each() for each in commits))
            return bundle

    async def _prepared(
        self, stack: contextlib.AsyncExitStack, place: Path, question: Question
    ) -> Callable[[], Awaitable[str]]:
        try:
            say = await stack.enter_async_context(_connected(place))
            await say(question)
        except ModelFailed as error:
            raise ModelFailed(f"{error}; nothing was changed") from error
        return lambda: say({"do": "commit"})

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        with (self.folder / _CHANGE_LOCK).open("ab") as lock:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            yield

    def _siblings(self) -> list[Path]:
        mine = _socket(self.folder, self.number)
        return sorted(each for each in self.folder.glob("*.sock") if each != mine)


async def ask_metrics(place: Path) -> bytes | None:
    """One worker's exposition; None when it does not answer in time."""
    try:
        async with asyncio.timeout(ASK_TIMEOUT), _connected(place) as say:
            return (await say({"do": "metrics"})).encode()
    except (TimeoutError, TierlineError):
        return None


def worker_socket(folder: Path, number: int) -> Path:
    """Where the worker of a place answers its family."""
    return _socket(folder, number)


def _socket(folder: Path, number: int) -> Path:
    return folder / f"{number}.sock"


@asynccontextmanager
async def _connected(place: Path) -> AsyncIterator[Callable[[Question], Awaitable[str]]]:
    """A conversation with one worker: each question gets a text, or raises ModelFailed; so does a
    worker that is not there."""
    with _answering(place):
        reader, writer = await asyncio.open_unix_connection(place, limit=_MAX_LINE)

    async def say(question: Question) -> str:
        with _answering(place):
            writer.write(json.dumps(dict(question)).encode() + b"\n")
            await writer.drain()
            line = await asyncio.wait_for(reader.readline(), CHANGE_TIMEOUT)
        answer = json.loads(line) if line else {"failed": "it hung up"}
        if "failed" in answer:
            raise ModelFailed(f"worker {place.stem}: {answer['failed']}")
        return str(answer["told"])

    try:
        yield say
    finally:
        writer.close()


@contextlib.contextmanager
def _answering(place: Path) -> Iterator[None]:
    """A worker that died or stands still meanwhile is a ModelFailed; the supervisor replaces it."""
    try:
        yield
    except OSError as error:  # TimeoutError among them
        why = str(error) or "timed out"
        raise ModelFailed(f"worker {place.stem} does not answer ({why})") from error


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    metrics: Callable[[], bytes],
    prepare: Prepare,
) -> None:
    async def tell(answer: Mapping[str, str]) -> None:
        writer.write(json.dumps(dict(answer)).encode() + b"\n")
        await writer.drain()

    line = await reader.readline()
    question = json.loads(line) if line else {}
    match question.get("do"):
        case None:
            return
        case "ping":
            await tell({"told": "here"})
        case "metrics":
            await tell({"told": metrics().decode()})
        case _:
            try:
                async with prepare(question) as commit:
                    await tell({"told": "prepared"})
                    if await reader.readline():
                        await tell({"told": commit()})
            except CallError as error:
                await tell({"failed": str(error)})
