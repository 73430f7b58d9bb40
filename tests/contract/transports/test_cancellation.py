"""Cancelling a send is neutral: slots, connections and tasks all come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine

import pytest
import uvloop

from tierline._exceptions import TransportError
from tierline._transports import WireRequest, open_async_transport
from tierline._transports.httpx_async import AsyncHttpxTransport
from tierline._transports.lean_async import AsyncLeanTransport

from .scripted_server import ScriptedServer

CONNECTIONS = 10
CALLERS = 30
GATE = 2_000  # cancellations; httpcore alone loses half its slots within a thousand
NIGHTLY = 100_000
COUNTS = [GATE, pytest.param(NIGHTLY, marks=pytest.mark.nightly)]
TIMEOUT = 2.0

Run = Callable[[Coroutine[object, object, None]], None]


async def _cancel_at_random(
    transport: AsyncLeanTransport | AsyncHttpxTransport, cancellations: int
) -> dict[str, int]:
    """Callers that send and are cancelled at any moment, until so many were."""
    rng = random.Random(7)
    loop = asyncio.get_running_loop()
    outcomes = {"cancelled": 0, "answered": 0, "failed": 0}

    async def caller() -> None:
        while outcomes["cancelled"] < cancellations:
            path = f"/slow?s={rng.random() * 0.004:.4f}"
            request = WireRequest("POST", path, (), (b"x" * 2000,))
            task = loop.create_task(transport.send(request, timeout=TIMEOUT))
            # One in twenty is left alone: on a slow machine no other might be answered in time.
            patience = TIMEOUT if rng.random() < 0.05 else rng.random() * 0.01
            timer = loop.call_later(patience, task.cancel)
            try:
                await task
                outcomes["answered"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            except TransportError:
                outcomes["failed"] += 1
            timer.cancel()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return outcomes


async def _all_slots_serve(transport: AsyncLeanTransport | AsyncHttpxTransport) -> None:
    """As many sends at once as there are slots all come through."""
    requests = [WireRequest("POST", "/echo", (), (b"%d" % n,)) for n in range(CONNECTIONS)]
    answers = await asyncio.gather(*(transport.send(each, timeout=5.0) for each in requests))
    assert [answer.body for answer in answers] == [b"%d" % n for n in range(CONNECTIONS)]


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("cancellations", COUNTS)
def test_random_cancellations_leak_nothing_in_the_lean_pool(
    http_server: ScriptedServer, cancellations: int, run: Run
) -> None:
    async def main() -> None:
        transport = open_async_transport(http_server.url, max_connections=CONNECTIONS)
        assert isinstance(transport, AsyncLeanTransport)
        outcomes = await _cancel_at_random(transport, cancellations)
        assert outcomes["answered"] > 0
        assert outcomes["failed"] == 0
        pool = transport._pools.get()
        assert pool.slots.free == CONNECTIONS
        assert len(pool.idle) <= CONNECTIONS
        assert pool.slots.waiting == 0
        assert len(asyncio.all_tasks()) == 1
        await _all_slots_serve(transport)
        await transport.aclose()

    run(main())
    assert http_server.wait_until_all_closed(5.0)


@pytest.mark.slow
@pytest.mark.parametrize("cancellations", COUNTS)
def test_random_cancellations_leak_nothing_in_the_httpx_pool(
    http_server: ScriptedServer, cancellations: int
) -> None:
    async def main() -> None:
        transport = open_async_transport(http_server.url, kind="httpx", max_connections=CONNECTIONS)
        assert isinstance(transport, AsyncHttpxTransport)
        outcomes = await _cancel_at_random(transport, cancellations)
        assert outcomes["cancelled"] >= cancellations
        abandoned = list(transport._pools.get().tasks)
        if abandoned:
            await asyncio.wait(abandoned, timeout=2 * TIMEOUT)
        assert len(asyncio.all_tasks()) == 1
        assert transport._pools.get().slots.free == CONNECTIONS
        await _all_slots_serve(transport)
        await transport.aclose()

    asyncio.run(main())
    assert http_server.wait_until_all_closed(5.0)


def test_a_slot_handed_to_a_caller_who_just_left_goes_to_the_next(
    http_server: ScriptedServer,
) -> None:
    async def main() -> None:
        transport = open_async_transport(http_server.url, max_connections=1)
        assert isinstance(transport, AsyncLeanTransport)
        pool = transport._pools.get()
        await pool.slots.acquire(pool.loop.time() + 5.0)
        leaving = asyncio.create_task(pool.slots.acquire(pool.loop.time() + 5.0))
        staying = asyncio.create_task(pool.slots.acquire(pool.loop.time() + 5.0))
        await asyncio.sleep(0)
        pool.slots.release()  # to the first in the queue, who is cancelled before it wakes up
        leaving.cancel()
        await staying
        assert leaving.cancelled()
        pool.slots.release()
        assert pool.slots.free == 1
        await transport.aclose()

    asyncio.run(main())


def test_the_waiting_are_served_in_the_order_they_came(http_server: ScriptedServer) -> None:
    order: list[int] = []

    async def main() -> None:
        transport = open_async_transport(http_server.url, max_connections=1)

        async def caller(number: int) -> None:
            await transport.send(WireRequest("GET", "/echo"), timeout=5.0)
            order.append(number)

        await asyncio.gather(*(caller(number) for number in range(20)))
        await transport.aclose()

    asyncio.run(main())
    assert order == list(range(20))


def test_an_event_loop_that_ends_takes_its_connections_along(
    http_server: ScriptedServer,
) -> None:
    for kind in ("lean", "httpx"):
        transport = open_async_transport(http_server.url, kind=kind)  # type: ignore[arg-type]
        for _ in range(3):
            asyncio.run(transport.send(WireRequest("GET", "/echo"), timeout=5.0))
        assert http_server.wait_until_all_closed(5.0)
    assert http_server.connects == 6
