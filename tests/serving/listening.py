"""A listening endpoint in this process around a scorer without a model, and its callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn
from fake_scorer import FakeScorer, a_request, until
from uvicorn.server import ServerState

from tierline.wire import encode_request
from tierline_serving.access.gate import Gate
from tierline_serving.app import App
from tierline_serving.batching import Runner
from tierline_serving.front.connections import guarded_protocol
from tierline_serving.front.native import NativeCycle
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
    handlers: Handlers
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
async def listening(*, gate: Gate | None = None, **changes: float) -> AsyncIterator[Node]:
    config = ServerSettings(**changes)  # type: ignore[arg-type]
    scorer, lifecycle, metrics = FakeScorer(), Lifecycle(), Metrics()
    runner = Runner(scorer, config.batch, on_batch=metrics.batch_finished)
    runner.start()
    lifecycle.on(Event.WARMED)
    handlers = Handlers(Served.of({"ranker": runner}), config, lifecycle, metrics)
    app = App(handlers, config, gate=gate)
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
        yield Node(port, scorer, runner, lifecycle, handlers, natives)
    finally:
        scorer.gate.set()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections and not state.tasks)
        assert runner.close(timeout=20)


def a_post(
    *ids: int, version: str = "1.1", extra: str = "", model: str = "ranker", frame: bytes = b""
) -> bytes:
    """A request for these candidates, or ``frame`` in its stead."""
    body = frame or b"".join(encode_request(a_request(*ids, model=model)))
    head = f"POST /v1/score HTTP/{version}\r\nhost: a\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def chunked(*ids: int, extra: str = "", model: str = "ranker", frame: bytes = b"") -> bytes:
    """The same request in a form that only ASGI takes."""
    body = frame or b"".join(encode_request(a_request(*ids, model=model)))
    head = f"POST /v1/score HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n{extra}\r\n"
    return head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
