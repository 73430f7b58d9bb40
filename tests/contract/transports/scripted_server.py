"""A small HTTP endpoint that does what the request's path tells it, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

DRIP_EVERY = 0.02  # seconds between the bytes of a dripped answer


@dataclass
class Exchange:
    """One request as the server saw it, and the means to answer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    target: str
    headers: dict[str, str]
    body: bytes
    nth: int  # of its connection, from 1

    def number(self, name: str) -> float:
        return float(parse_qs(urlsplit(self.target).query)[name][0])

    def answer(self, body: bytes, *extra: bytes) -> None:
        lines = b"".join(line + b"\r\n" for line in extra)
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nX-Seen: yes\r\n%b\r\n" % (
            len(body),
            lines,
        )
        self.writer.write(head + body)


@dataclass
class ScriptedServer:
    """Runs in a thread of its own; ``connects`` and ``requests`` count what reached it."""

    unix_path: str | None = None
    tls: ssl.SSLContext | None = None
    connects: int = 0
    requests: list[str] = field(default_factory=list)
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> ScriptedServer:
        self._open: dict[asyncio.StreamWriter, asyncio.Task[object] | None] = {}
        self._all_closed = threading.Event()
        self._all_closed.set()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)))
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def wait_until_all_closed(self, timeout: float) -> bool:
        return self._all_closed.wait(timeout)

    async def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self.unix_path is not None:
            server = await asyncio.start_unix_server(self._serve, self.unix_path, backlog=512)
            self.url = f"unix://{self.unix_path}"
        else:
            server = await asyncio.start_server(
                self._serve, "127.0.0.1", 0, ssl=self.tls, backlog=512
            )
            port = server.sockets[0].getsockname()[1]
            self.url = f"https://localhost:{port}" if self.tls else f"http://127.0.0.1:{port}"
        ready.set()
        await self._stop.wait()
        server.close()
        tasks = [task for task in self._open.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        self._open[writer] = asyncio.current_task()
        self._all_closed.clear()
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._converse(reader, writer)
        finally:
            writer.transport.abort()
            del self._open[writer]
            if not self._open:
                self._all_closed.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nth = 0
        while True:
            nth += 1
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            fields = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            target = first.split(" ")[1]
            script = SCRIPTS[urlsplit(target).path]
            self.requests.append(target)
            self.seen_headers.append(headers)
            body = b""
            if script is not refuse_unread:
                body = await reader.readexactly(int(headers.get("content-length", "0")))
            exchange = Exchange(reader, writer, target, headers, body, nth)
            if not await script(exchange):
                await writer.drain()
                return
            await writer.drain()


Script = Callable[[Exchange], Awaitable[bool]]  # False: hang up


async def echo(exchange: Exchange) -> bool:
    exchange.answer(exchange.body)
    return True


async def pieces(exchange: Exchange) -> bool:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nconte")
    await asyncio.sleep(0.005)
    exchange.writer.write(b"nt-length: 9\r\n\r\nabc")
    await asyncio.sleep(0.005)
    exchange.writer.write(b"def")
    await asyncio.sleep(0.005)
    exchange.writer.write(b"ghi")
    return True


async def chunked(exchange: Exchange) -> bool:
    writer = exchange.writer
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123")
    await asyncio.sleep(0.005)
    writer.write(b"456789\r\n0\r\nx-trailer: 1\r\n\r\n")
    return True


async def interim(exchange: Exchange) -> bool:
    exchange.writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    exchange.answer(b"real")
    return True


async def error(exchange: Exchange) -> bool:
    exchange.writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy")
    return True


async def empty(exchange: Exchange) -> bool:
    exchange.writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    return True


async def say_close(exchange: Exchange) -> bool:
    exchange.answer(b"bye", b"Connection: close")
    return False


async def once(exchange: Exchange) -> bool:
    """Answers a connection's first request; hangs up on the second."""
    if exchange.nth == 1:
        exchange.answer(b"ok")
    return exchange.nth == 1


async def speak_unasked(exchange: Exchange) -> bool:
    """Answers, and then says what could pass for the next request's answer."""
    exchange.answer(b"mine")
    await exchange.writer.drain()
    await asyncio.sleep(0.02)  # or it would be one piece with the answer
    exchange.writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    return False


async def hang_up(exchange: Exchange) -> bool:
    return False


async def refuse_unread(exchange: Exchange) -> bool:
    exchange.writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
    await exchange.writer.drain()
    await exchange.reader.read(1 << 20)
    return False


async def never(exchange: Exchange) -> bool:
    await exchange.reader.read(1)  # until the client leaves
    return False


async def slow(exchange: Exchange) -> bool:
    await asyncio.sleep(exchange.number("s"))
    exchange.answer(b"slow")
    return True


async def _drip(exchange: Exchange, text: bytes) -> bool:
    for byte in text:
        exchange.writer.write(bytes((byte,)))
        await exchange.writer.drain()
        await asyncio.sleep(DRIP_EVERY)
    return True


async def drip_body(exchange: Exchange) -> bool:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n")
    return await _drip(exchange, b"." * 200)


async def drip_head(exchange: Exchange) -> bool:
    return await _drip(exchange, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: " + b"." * 200)


def _wrong(text: bytes) -> Script:
    async def script(exchange: Exchange) -> bool:
        exchange.writer.write(text)
        return False

    return script


OK = b"HTTP/1.1 200 OK\r\n"
SCRIPTS: dict[str, Script] = {
    "/echo": echo,
    "/pieces": pieces,
    "/chunked": chunked,
    "/interim": interim,
    "/error": error,
    "/empty": empty,
    "/say-close": say_close,
    "/once": once,
    "/hang-up": hang_up,
    "/speak-unasked": speak_unasked,
    "/refuse-unread": refuse_unread,
    "/never": never,
    "/slow": slow,
    "/drip-body": drip_body,
    "/drip-head": drip_head,
    "/wrong/garbage": _wrong(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "/wrong/huge-head": _wrong(OK + b"x: " + b"y" * 200_000 + b"\r\n\r\n"),
    "/wrong/endless-head": _wrong(OK + b"x: y\r\n" * 30_000),
    "/wrong/both-lengths": _wrong(
        OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    "/wrong/two-lengths": _wrong(OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
    "/wrong/no-length": _wrong(OK + b"\r\nabc"),
    "/wrong/short-body": _wrong(OK + b"content-length: 10\r\n\r\nabc"),
    "/wrong/short-chunk": _wrong(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nabc"),
    "/wrong/bad-chunk": _wrong(OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n"),
    "/wrong/huge-body": _wrong(OK + b"content-length: 99999999999\r\n\r\nabc"),
}
WRONG = sorted(path for path in SCRIPTS if path.startswith("/wrong/"))
