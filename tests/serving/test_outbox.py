"""Answers of a batch leave together, and what is told of none leaves at once."""

from __future__ import annotations

from asyncio import WriteTransport

import pytest

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
    with outbox:
        outbox.write(one, b"first")
        outbox.write(gone, b"nobody reads it")
        outbox.write(other, b"second")
        gone.closed = True
        assert written == [b"at once"]
    assert written == [b"at once", b"first", b"second"]


def test_what_is_held_leaves_even_when_telling_fails() -> None:
    written: list[bytes] = []
    outbox, line = Outbox(), Line(written)

    def tell() -> None:
        with outbox:
            outbox.write(line, b"told")
            raise RuntimeError("the next could not be told")

    with pytest.raises(RuntimeError):
        tell()
    outbox.write(line, b"later")
    assert written == [b"told", b"later"]
