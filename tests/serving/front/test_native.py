"""Native calls answered on the connection mean the same as through ASGI, in every way they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

import httptools
import pytest
import uvicorn
from fake_scorer import FakeScorer, a_request, until
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from tierline.wire import decode_error, decode_reply, encode_request
from tierline_serving.app import App
from tierline_serving.batching import Runner
from tierline_serving.front.connections import guarded_protocol
from tierline_serving.front.native import NativeCycle, read_whole
from tierline_serving.handlers import Handlers
from tierline_serving.lifecycle import Event, Lifecycle
from tierline_serving.metrics import Metrics
from tierline_serving.served import Served
from tierline_serving.settings import ServerSettings


@dataclass
class Node:
    """A listening endpoint in this process, and what became of it."""

    port: int
    scorer: FakeScorer
    runner: Runner
    lifecycle: Lifecycle
    natives: list[NativeCycle]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await answered(reader)
        await hang_up(writer)
        return answer


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next answer on a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def listening(**changes: float) -> AsyncIterator[Node]:
    config = ServerSettings(**changes)  # type: ignore[arg-type]
    scorer, lifecycle, metrics = FakeScorer(), Lifecycle(), Metrics()
    runner = Runner(scorer, config.batch, on_batch=metrics.batch_finished)
    runner.start()
    lifecycle.on(Event.WARMED)
    app = App(Handlers(Served.of({"ranker": runner}), config, lifecycle, metrics), config)
    settings = uvicorn.Config(
        app, lifespan="off", ws="none", log_config=None, access_log=False, proxy_headers=False
    )
    settings.load()
    state, natives = ServerState(), list[NativeCycle]()

    class Watched(guarded_protocol(config)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: object) -> None:
            if type(value) is NativeCycle:
                natives.append(value)
            super().__setattr__(name, value)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Watched(config=settings, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        port = server.sockets[0].getsockname()[1]
        yield Node(port, scorer, runner, lifecycle, natives)
    finally:
        scorer.gate.set()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections and not state.tasks)
        assert runner.close(timeout=20)


def a_post(*ids: int, version: str = "1.1", extra: str = "", model: str = "ranker") -> bytes:
    frame = b"".join(encode_request(a_request(*ids, model=model)))
    head = (
        f"POST /v1/score HTTP/{version}\r\nhost: a\r\ncontent-length: {len(frame)}\r\n{extra}\r\n"
    )
    return head.encode() + frame


def chunked(*ids: int, extra: str = "", model: str = "ranker") -> bytes:
    """The same request in a form that only ASGI takes."""
    frame = b"".join(encode_request(a_request(*ids, model=model)))
    head = f"POST /v1/score HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n{extra}\r\n"
    return head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(frame), frame)


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("ranker", "x-request-id: abc-1\r\nx-tierline-deadline-ms: 5000.0\r\n"),
        ("nobody", "x-request-id: abc-1\r\n"),
        ("ranker", "x-tierline-deadline-ms: soon\r\n"),
        ("ranker", "x-tierline-deadline-ms: 0.0\r\n"),
    ],
)
def test_both_ways_give_the_same_status_headers_and_frame(model: str, extra: str) -> None:
    async def scenario() -> None:
        async with listening() as node:
            native = await node.ask(a_post(3, 4, extra=extra, model=model))
            assert len(node.natives) == 1
            through_asgi = await node.ask(chunked(3, 4, extra=extra, model=model))
            assert len(node.natives) == 1
            assert native[0] == through_asgi[0]
            assert set(native[1]) == set(through_asgi[1])
            if native[0] == 200:
                both = [
                    decode_reply(answer[2]).scores.tolist() for answer in (native, through_asgi)
                ]
                assert both == [[3.0, 4.0]] * 2
            else:
                assert native[2] == through_asgi[2]

    asyncio.run(scenario())


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 200), max_size=4))
def test_a_request_in_any_pieces_is_answered(cuts: list[int]) -> None:
    async def scenario() -> None:
        async with listening() as node:
            whole = a_post(5, 6)
            edges = [0, *sorted({cut for cut in cuts if cut < len(whole)}), len(whole)]
            pieces = [whole[low:high] for low, high in pairwise(edges)]
            status, _, body = await node.ask(*pieces)
            assert (status, decode_reply(body).scores.tolist()) == (200, [5.0, 6.0])

    asyncio.run(scenario())


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async def scenario() -> None:
        async with listening() as node:
            reader, writer = await node.connect()
            writer.write(
                a_post(1) + chunked(2) + a_post(3) + b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
            )
            scores = [decode_reply((await answered(reader))[2]).scores.tolist() for _ in range(3)]
            assert scores == [[1.0], [2.0], [3.0]]
            assert (await answered(reader))[2] == b"alive\n"
            writer.write(a_post(4))
            assert (await answered(reader))[0] == 200
            await hang_up(writer)

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "extra"), [("1.0", ""), ("1.1", "connection: close\r\n")])
def test_a_caller_who_wants_no_more_is_hung_up_on(version: str, extra: str) -> None:
    async def scenario() -> None:
        async with listening() as node:
            reader, writer = await node.connect()
            writer.write(a_post(1, version=version, extra=extra))
            status, headers, _ = await answered(reader)
            assert (status, headers["connection"]) == (200, "close")
            assert await reader.read() == b""
            await hang_up(writer)

    asyncio.run(scenario())


def test_a_draining_endpoint_answers_and_asks_to_leave() -> None:
    async def scenario() -> None:
        async with listening() as node:
            node.lifecycle.on(Event.DRAIN)
            status, headers, _ = await node.ask(a_post(1))
            assert (status, headers["connection"]) == (200, "close")

    asyncio.run(scenario())


def test_a_caller_who_hangs_up_takes_his_request_along() -> None:
    async def scenario() -> None:
        async with listening() as node:
            node.scorer.gate.clear()
            first = asyncio.create_task(node.ask(a_post(1)))
            await until(node.scorer.entered.is_set)
            _, writer = await node.connect()
            writer.write(a_post(2))
            await until(lambda: node.runner.unanswered == 2)
            await hang_up(writer)
            await until(lambda: node.runner.unanswered == 1)
            node.scorer.gate.set()
            assert (await first)[0] == 200
            assert node.scorer.scored == [1]

    asyncio.run(scenario())


def test_a_body_that_stops_coming_is_408() -> None:
    async def scenario() -> None:
        async with listening(read_timeout=0.05) as node:
            status, headers, body = await node.ask(a_post(1, 2)[:-3])
            assert (status, headers["connection"]) == (408, "close")
            assert "did not arrive within 0.05 s" in decode_error(body).message

    asyncio.run(scenario())


def test_a_connection_between_two_calls_is_kept_and_an_idle_one_is_closed() -> None:
    async def scenario() -> None:
        async with listening() as node:
            reader, writer = await node.connect()
            writer.write(a_post(1))
            await answered(reader)
            protocol = node.natives[0]._connection
            protocol.timeout_keep_alive_handler()  # type: ignore[attr-defined]
            writer.write(a_post(2))
            assert (await answered(reader))[0] == 200, "it rang before its time"
            protocol._idle_from -= 60.0  # type: ignore[attr-defined]
            protocol.timeout_keep_alive_handler()  # type: ignore[attr-defined]
            assert await reader.read() == b""
            await hang_up(writer)

    asyncio.run(scenario())


def test_native_calls_are_counted_like_all_others() -> None:
    async def scenario() -> None:
        async with listening() as node:
            await node.ask(a_post(1))
            await node.ask(a_post(1, model="nobody"))
            text = (await node.ask(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"))[2].decode()
            assert 'tierline_requests_total{code="ok"} 1.0' in text
            assert 'tierline_requests_total{code="model_not_found"} 1.0' in text
            assert "tierline_inflight_requests 0.0" in text
            metadata = json.loads((await node.ask(b"GET /metadata HTTP/1.1\r\nhost: a\r\n\r\n"))[2])
            assert metadata["name"] == "tierline"

    asyncio.run(scenario())


class Parsed:
    """What httptools makes of a request."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.messages = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.keeps_alive = parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


NAMES = [
    "host",
    "Content-Length",
    "X-A",
    "transfer-encoding",
    "connection",
    "x y",
    "",
    "Expect",
    "te",
]
VALUES = [
    "a",
    "3",
    "03",
    "+3",
    "chunked",
    "close",
    " 3",
    "3 ",
    "",
    "a\tb",
    "é",
    "3\r\n folded",
    "5",
]


@settings(max_examples=600)
@given(
    lines=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5),
    colon=st.sampled_from([": ", ":", " : "]),
    end=st.sampled_from(["\r\n", "\n"]),
    body=st.sampled_from([b"", b"abc", b"abcde", b"abcPOST /v1/score HTTP/1.1\r\n"]),
)
def test_what_is_read_whole_is_exactly_what_the_full_parser_reads(
    lines: list[tuple[str, str]], colon: str, end: str, body: bytes
) -> None:
    head = [f"{name}{colon}{value}{end}" for name, value in lines]
    data = ("POST /v1/score HTTP/1.1\r\n" + "".join(head) + end).encode() + body
    found = read_whole(data)
    if found is not None:
        parsed = Parsed(data)
        assert found == (parsed.headers, parsed.body)
        assert parsed.messages == 1
        assert parsed.keeps_alive


def test_our_own_clients_request_is_read_whole() -> None:
    frame = b"".join(encode_request(a_request(1, 2)))
    head = [
        f"{name}: {value}"
        for name, value in (
            ("host", "a"),
            ("x-tierline-deadline-ms", "80.000"),
            ("x-request-id", "r1"),
        )
    ]
    lines = "\r\n".join([*head, f"content-length: {len(frame)}"])
    found = read_whole(f"POST /v1/score HTTP/1.1\r\n{lines}\r\n\r\n".encode() + frame)
    assert found is not None
    assert found[1] == frame
