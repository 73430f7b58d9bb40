"""Who cannot be served in time is refused by his head: his body is never opened, his connection
kept; and what a head says of its caller reaches the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fake_scorer import until
from listening import Node, a_post, answered, chunked, hang_up, listening

from tierline.wire import decode_error
from tierline_serving.admission import WARM_AFTER

DEADLINE = "x-tierline-deadline-ms: 100.000\r\nx-request-id: r-7\r\n"
COST = 5.0  # seconds a batch: nobody with a deadline of 100 ms can be served


UNREADABLE = b"\x00" * 200  # whoever opens it answers 400


@asynccontextmanager
async def overloaded() -> AsyncIterator[Node]:
    async with listening() as node:
        for _ in range(WARM_AFTER):
            node.runner._door.admission.observe(2, COST, time.monotonic())
        yield node


def test_a_refused_call_is_never_opened_and_its_connection_stays_usable() -> None:
    async def scenario() -> None:
        async with overloaded() as node:
            reader, writer = await node.connect()
            for frame in (UNREADABLE, UNREADABLE, b""):
                writer.write(a_post(1, 2, extra=DEADLINE, frame=frame))
                status, headers, body = await answered(reader)
                assert status == 429
                assert headers["x-tierline-reason"] == "deadline_unreachable"
                assert headers["x-request-id"] == "r-7"
                again = decode_error(body).retry_after
                assert again is not None
                assert 1.0 < again < COST
            node.runner.forget_costs()
            writer.write(a_post(1, 2, extra=DEADLINE))
            assert (await answered(reader))[0] == 200
            assert len(node.natives) == 1, "a refused call takes no cycle"
            writer.write(a_post(extra=DEADLINE, frame=UNREADABLE))
            assert (await answered(reader))[0] == 400, "who is let in is opened"
            await hang_up(writer)

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", [30, 150, 200])
def test_a_refused_body_that_comes_in_pieces_is_dropped_as_it_comes(cut: int) -> None:
    async def scenario() -> None:
        async with overloaded() as node:
            reader, writer = await node.connect()
            message = a_post(extra=DEADLINE, frame=UNREADABLE)
            writer.write(message[:cut])
            await asyncio.sleep(0)
            writer.write(message[cut:] + message)
            assert [(await answered(reader))[0] for _ in range(2)] == [429, 429]
            await hang_up(writer)

    asyncio.run(scenario())


def test_both_ways_refuse_with_the_same_words_and_a_refused_chunked_body_is_not_read() -> None:
    async def scenario() -> None:
        async with overloaded() as node:
            native = await node.ask(a_post(extra=DEADLINE, frame=UNREADABLE))
            reader, writer = await node.connect()
            writer.write(chunked(extra=DEADLINE, frame=UNREADABLE))
            through_asgi = await answered(reader)
            assert native[0] == through_asgi[0] == 429
            assert set(native[1]) == set(through_asgi[1])
            assert decode_error(native[2]).message == decode_error(through_asgi[2]).message
            node.runner.forget_costs()
            writer.write(a_post(1, 2))
            assert (await answered(reader))[0] == 200
            await hang_up(writer)

    asyncio.run(scenario())


def test_what_is_refused_by_its_head_is_counted() -> None:
    async def scenario() -> None:
        async with overloaded() as node:
            await node.ask(a_post(1, 2, extra=DEADLINE))
            text = (await node.ask(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"))[2].decode()
            assert 'tierline_requests_total{code="overloaded"} 1.0' in text
            assert 'tierline_rejected_total{reason="deadline_unreachable"} 1.0' in text
            assert "tierline_inflight_requests 0.0" in text

    asyncio.run(scenario())


@pytest.mark.parametrize("post", [a_post, chunked])
def test_a_heads_criticality_and_its_caller_reach_the_queue(post: Callable[..., bytes]) -> None:
    async def scenario() -> None:
        async with listening() as node:
            node.scorer.gate.clear()
            asked = [asyncio.create_task(node.ask(a_post(1)))]
            await until(node.scorer.entered.is_set)
            queue = node.runner._batcher
            for count, extra in enumerate(("x-tierline-criticality: sheddable\r\n", ""), 1):
                asked.append(asyncio.create_task(node.ask(post(1, 2, extra=extra))))
                await until(lambda count=count: queue.queued_requests == count)
            wrong = await node.ask(post(1, 2, extra="x-tierline-criticality: urgent\r\n"))
            assert wrong[0] == 400
            assert list(queue._queues) == ["127.0.0.1"]
            queued = [each.criticality for each in queue._waiting.values()]
            assert queued == ["sheddable", "default"]
            node.scorer.gate.set()
            assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 3

    asyncio.run(scenario())
