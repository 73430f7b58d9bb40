"""The chaos proxy: listens, connects, and passes pieces on when their instant has come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from functools import partial
from random import Random

from tierline_drills.proxy.content import Answers
from tierline_drills.proxy.toxics import DOWNSTREAM, UPSTREAM, Piece, Stream, Toxic

CHUNK = 65536  # bytes read at once
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST


@dataclass(slots=True, eq=False)
class Connection:
    """One client's connection through one proxy, and its two directions."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    streams: dict[str, Stream]
    dooms: list[asyncio.TimerHandle] = field(default_factory=list)

    def end(self, *, reset: bool) -> None:
        """Close both sides at once, with RST if so wanted."""
        for timer in self.dooms:
            timer.cancel()
        for writer in (self.client, self.server):
            if reset:
                found: socket.socket | None = writer.get_extra_info("socket")
                if found is not None:
                    with contextlib.suppress(OSError):
                        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort() if reset else writer.close()


class ChaosProxy:
    """One listener in front of one upstream, with its toxics. Use it on one event loop."""

    def __init__(self, name: str, listen: str, upstream: str, dice: Random) -> None:
        self.name, self.listen, self.upstream = name, listen, upstream
        self.enabled = False
        self.toxics: dict[str, Toxic] = {}
        self.passed = {UPSTREAM: 0, DOWNSTREAM: 0}  # bytes
        self._dice = dice
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shelf: list[bytes] = []

    async def start(self) -> None:
        """Begin to listen; ``listen`` then names the port. Raises OSError."""
        if self._server is None:
            host, _, port = self.listen.rpartition(":")
            self._server = await asyncio.start_server(self._accepted, host, int(port))
            found = self._server.sockets[0].getsockname()
            self.listen = f"{found[0]}:{found[1]}"
        self.enabled = True

    async def stop(self) -> None:
        """Stop listening and drop every connection: nobody answers at this address."""
        self.enabled = False
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.end(reset=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def put(self, toxic: Toxic) -> None:
        """Add or replace a toxic; it strikes open connections, too."""
        self.toxics[toxic.name] = toxic
        for connection in list(self._connections):
            self._doom(connection)

    def remove(self, name: str) -> None:
        """Take a toxic away. Raises KeyError."""
        del self.toxics[name]
        for connection in list(self._connections):
            self._doom(connection)

    # -- connections -------------------------------------------------------------------------

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a side hung up, or the proxy stops: this connection is over either way
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.upstream.rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        now = asyncio.get_running_loop().time()
        streams = {way: Stream(way, now, self._dice) for way in (UPSTREAM, DOWNSTREAM)}
        connection = Connection(client=writer, server=up_writer, streams=streams)
        self._connections.add(connection)
        self._doom(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, UPSTREAM, reader, up_writer)),
            asyncio.create_task(self._pump(connection, DOWNSTREAM, up_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._connections.discard(connection)
            connection.end(reset=False)

    async def _pump(
        self,
        connection: Connection,
        way: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Read, let the toxics have it, pass it on in order and in time."""
        loop, stream = asyncio.get_running_loop(), connection.streams[way]
        answers = Answers(self._shelf)
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        sending = asyncio.create_task(self._send(connection, way, pieces, writer))
        try:
            while data := await reader.read(CHUNK):
                data = self._content(answers, stream, data)
                for piece in stream.offered(data, loop.time(), self._current()) if data else ():
                    pieces.put_nowait(piece)
            rest = answers.released()
            closing = stream.closing(loop.time(), self._current())
            pieces.put_nowait(Piece(closing, rest, "eof"))
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(
        self,
        connection: Connection,
        way: str,
        pieces: asyncio.Queue[Piece | None],
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        while (piece := await pieces.get()) is not None:
            if piece.at == float("inf"):
                await asyncio.Event().wait()  # a line of 0 KB/s: until the connection ends
            if (early := piece.at - loop.time()) > 0:
                await asyncio.sleep(early)
            if piece.data:
                writer.write(piece.data)
                self.passed[way] += len(piece.data)
                await writer.drain()
            if piece.then == "eof":
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            if piece.then:
                connection.end(reset=piece.then == "reset")
                return

    def _content(self, answers: Answers, stream: Stream, data: bytes) -> bytes:
        active = stream.active(self._current())
        fault = next(
            (t.attributes.get("fault", "nan") for t in active if t.type == "content"), None
        )
        return answers.released() + data if fault is None else answers.passed(data, str(fault))

    def _current(self) -> list[Toxic]:
        return list(self.toxics.values())

    def _doom(self, connection: Connection) -> None:
        """Set the clocks of timeouts and resets for one connection anew."""
        loop = asyncio.get_running_loop()
        for timer in connection.dooms:
            timer.cancel()
        connection.dooms.clear()
        for stream in connection.streams.values():
            doom = stream.doom(loop.time(), self._current())
            if doom is not None:
                reset = doom.then == "reset"
                end = loop.call_at(doom.at, partial(connection.end, reset=reset))
                connection.dooms.append(end)


@dataclass(slots=True)
class Proxies:
    """Every proxy of one process, by name. Use it on one event loop."""

    dice: Random = field(default_factory=Random)
    named: dict[str, ChaosProxy] = field(default_factory=dict)

    async def create(
        self, name: str, listen: str, upstream: str, *, enabled: bool = True
    ) -> ChaosProxy:
        """Add a proxy and start it. Raises OSError when it cannot listen."""
        proxy = ChaosProxy(name, listen, upstream, self.dice)
        if enabled:
            await proxy.start()
        self.named[name] = proxy
        return proxy

    async def reset(self) -> None:
        """Enable every proxy, remove every toxic."""
        for proxy in self.named.values():
            for name in list(proxy.toxics):
                proxy.remove(name)
            await proxy.start()

    async def close(self) -> None:
        """Stop every proxy."""
        for proxy in self.named.values():
            await proxy.stop()
