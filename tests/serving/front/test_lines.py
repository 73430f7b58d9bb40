"""What is written on a line is on its way at once, whole, in order, and to nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tierline_serving.front.lines import Line

Run = Callable[[Coroutine[Any, Any, None]], None]
LARGE = 4 << 20  # bytes: more than a socket holds


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on one loop or the other."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return run


async def connected() -> tuple[asyncio.Transport, socket.socket]:
    """A transport and the other end, which does not block."""
    here, there = socket.socketpair()
    there.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, here)
    return transport, there


def test_what_is_written_is_there_before_the_loop_goes_on(run: Run) -> None:
    async def main() -> None:
        transport, there = await connected()
        with there:
            Line(transport).write(b"refused")
            assert there.recv(100) == b"refused"
            transport.close()

    run(main())


def test_what_the_kernel_does_not_take_at_once_arrives_whole_and_in_order(run: Run) -> None:
    async def main() -> None:
        transport, there = await connected()
        with there:
            line = Line(transport)
            line.write(b"a" * LARGE)
            line.write(b"b" * LARGE)
            loop = asyncio.get_running_loop()
            came = bytearray()
            while len(came) < 2 * LARGE:
                came += await loop.sock_recv(there, LARGE)
            assert came == b"a" * LARGE + b"b" * LARGE
            line.write(b"c")
            assert await loop.sock_recv(there, 100) == b"c"
            transport.close()

    run(main())


def test_nothing_reaches_a_stranger_who_got_the_descriptor_of_who_has_gone(run: Run) -> None:
    async def main() -> None:
        transport, there = await connected()
        descriptor = transport.get_extra_info("socket").fileno()
        line = Line(transport)
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        there.close()
        pairs = [socket.socketpair() for _ in range(8)]
        try:
            assert descriptor in {end.fileno() for pair in pairs for end in pair}
            line.write(b"a secret")
            for pair in pairs:
                for end in pair:
                    end.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        end.recv(100)
        finally:
            for pair in pairs:
                for end in pair:
                    end.close()

    run(main())


def test_a_write_to_who_has_hung_up_closes_the_transport_and_raises_nothing(run: Run) -> None:
    async def main() -> None:
        transport, there = await connected()
        there.close()
        line = Line(transport)
        line.write(b"too late")
        line.write(b"too late")
        await asyncio.sleep(0)
        for _ in range(100):
            if transport.is_closing():
                break
            await asyncio.sleep(0)
        assert transport.is_closing()

    run(main())
