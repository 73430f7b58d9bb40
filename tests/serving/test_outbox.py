"""Answers of a batch leave together, and what is told of none leaves at once."""

from __future__ import annotations

import asyncio
import time
from asyncio import WriteTransport

from fake_scorer import FakeScorer, a_request, until

from tierline_serving.batching import Pending, Runner
from tierline_serving.batching.pending import Outcome
from tierline_serving.outbox import Outbox


class Line(WriteTransport):
    """Keeps what was written, in one list for all lines."""

    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self.written = written
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed


def test_what_is_held_leaves_in_order_when_all_is_told_and_not_to_who_has_gone() -> None:
    written: list[bytes] = []
    one, other, gone = (Line(written) for _ in range(3))
    outbox = Outbox()
    outbox.write(one, b"at once")
    assert written == [b"at once"]
    outbox.hold()
    outbox.write(one, b"first")
    outbox.write(gone, b"nobody reads it")
    outbox.write(other, b"second")
    gone.closed = True
    assert written == [b"at once"]
    outbox.release()
    assert written == [b"at once", b"first", b"second"]


def test_what_is_held_leaves_even_when_telling_fails() -> None:
    written: list[bytes] = []
    outbox, line = Outbox(), Line(written)
    failed: list[BaseException] = []

    def done(pending: Pending, outcome: Outcome) -> None:
        outbox.write(line, b"told")
        assert written == []
        raise RuntimeError("the next could not be told")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        runner = Runner(FakeScorer(), outbox=outbox)
        runner.start()
        runner.enter(a_request(1), time.monotonic() + 20.0, done)
        await until(lambda: len(failed) == 1)
        assert runner.close(timeout=20)

    asyncio.run(scenario())
    assert isinstance(failed[0], RuntimeError)
    outbox.write(line, b"later")
    assert written == [b"told", b"later"]
