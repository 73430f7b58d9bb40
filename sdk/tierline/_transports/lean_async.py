"""The lean transport for asyncio: a protocol on kept-alive connections, one future an exchange."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Sequence
from random import Random
from typing import cast

from tierline._exceptions import (
    AttemptTimedOut,
    ConnectFailed,
    LocalProtocolError,
    RemoteProtocolError,
)
from tierline._transports.base import Buffer, WireRequest, WireResponse
from tierline._transports.http1 import ResponseParser, field_lines, request_head
from tierline._transports.idle import MAX_CONNECTIONS, IdleConnections, retirement
from tierline._transports.lean import COARSE
from tierline._transports.loops import PerLoop
from tierline._transports.origin import Origin
from tierline._transports.slots import Slots

ONE_LOOK = 0.001  # seconds; enough for every loop to look at its sockets once


class AsyncLeanTransport:
    """A pool of kept-alive connections to one origin, for each event loop that uses it."""

    def __init__(
        self,
        origin: Origin,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Sequence[tuple[str, str]] = (),
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._origin = origin
        self._tls = (tls or ssl.create_default_context()) if origin.is_tls else None
        self._standing = f"host: {origin.authority}\r\n{field_lines(headers)}"
        self._closed = False
        self._pools: PerLoop[_Pool] = PerLoop(lambda: _Pool(max_connections), _Pool.aclose)

    async def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        """Carry one request and bring its answer; see ``AsyncTransport``."""
        parts = [request_head(request, self._standing), *request.body]
        if self._closed:
            raise LocalProtocolError("this transport is closed")
        pool = self._pools.get()
        deadline = pool.loop.time() + timeout
        await pool.slots.acquire(deadline)
        try:
            return await self._exchange(pool, parts, deadline)
        except TimeoutError as error:
            raise AttemptTimedOut(f"no whole answer within {timeout:.3f} s") from error
        finally:
            pool.slots.release()

    async def aclose(self) -> None:
        """Close the idle connections; those in use close when their answer is in."""
        self._closed = True
        await self._pools.aclose()

    async def _exchange(self, pool: _Pool, parts: list[Buffer], deadline: float) -> WireResponse:
        connection = pool.take()
        if connection is not None:
            try:
                return await _carry(pool, connection, parts, deadline)
            except _Stale:
                pass  # score calls are pure: once more, on a fresh connection
        connection = await self._connect(pool, deadline)
        try:
            return await _carry(pool, connection, parts, deadline)
        except _Stale as stale:
            raise RemoteProtocolError(str(stale)) from stale.__cause__

    async def _connect(self, pool: _Pool, deadline: float) -> _Connection:
        origin, loop = self._origin, pool.loop
        connection = _Connection(loop, retirement(loop.time(), pool.rng))
        try:
            async with asyncio.timeout_at(deadline):
                if origin.path:
                    await loop.create_unix_connection(lambda: connection, origin.path)
                else:
                    if self._tls is not None:
                        # httpx sets this on a context it shares with us; we speak HTTP/1.1 only.
                        self._tls.set_alpn_protocols(["http/1.1"])
                    await loop.create_connection(
                        lambda: connection,
                        origin.host,
                        origin.port,
                        ssl=self._tls,
                        server_hostname=origin.host if self._tls else None,
                    )
        except TimeoutError:
            connection.close()
            raise
        except (OSError, UnicodeError) as error:  # UnicodeError: no such host name
            connection.close()
            raise ConnectFailed(f"cannot connect to {origin.authority}: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection


async def _carry(
    pool: _Pool, connection: _Connection, parts: list[Buffer], deadline: float
) -> WireResponse:
    reusable = False
    try:
        response, reusable = await connection.exchange(parts, deadline)
    finally:
        if not (reusable and pool.put(connection)):
            connection.close()  # also after a cancellation: its answer may still be under way
    return response


class _Pool:
    """The connections of one event loop: slots for all, a list of the idle ones."""

    def __init__(self, max_connections: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.rng = Random()
        self.slots = Slots(max_connections)
        self.idle: IdleConnections[_Connection] = IdleConnections()
        self._closed = False

    def take(self) -> _Connection | None:
        connection, to_close = self.idle.take(self.loop.time())
        for old in to_close:
            old.close()
        return connection

    def put(self, connection: _Connection) -> bool:
        return not self._closed and self.idle.put(connection, self.loop.time())

    async def aclose(self) -> None:
        self._closed = True
        for connection in self.idle.clear():
            connection.close()


class _Stale(Exception):
    """The connection ended before one byte of the answer. Never leaves this module."""


class _Connection(asyncio.Protocol):
    """One connection, carrying one exchange at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, retire_at: float) -> None:
        self.retire_at = retire_at
        self.is_open = True
        self._loop = loop
        self._poll = select.poll()
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._answer: asyncio.Future[WireResponse] | None = None

    async def exchange(self, parts: list[Buffer], deadline: float) -> tuple[WireResponse, bool]:
        """Send the parts, await the answer; and whether the connection may serve again.

        Raises TimeoutError at the deadline, _Stale and RemoteProtocolError.
        """
        if not self.is_open or self._transport is None or self._poll.poll(0):
            # Hung up already, or said what would pass for an answer: the loop has yet to read it.
            raise _Stale("the endpoint hung up before the request")
        parser = self._parser = ResponseParser()
        answer = self._answer = self._loop.create_future()
        timer = self._loop.call_at(deadline, _expire, self._loop, answer, deadline)
        try:
            self._transport.writelines(parts)
            return await answer, parser.reusable
        finally:
            timer.cancel()
            self._parser = self._answer = None
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even if the caller was cancelled in that very moment

    def close(self) -> None:
        """Close at once, without waiting for what is still to be written."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, no check: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        if not self.is_open:
            self._transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if transport.get_extra_info("ssl_object") is None:  # TLS may have tickets under way
            self._poll.register(sock.fileno(), select.POLLIN)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        parser, answer = self._parser, self._answer
        if parser is None or answer is None or answer.done():
            self.close()  # nobody asked: what else it sends cannot be trusted
            return
        try:
            response = parser.feed(data)
        except RemoteProtocolError as error:
            answer.set_exception(error)
        else:
            if response is not None:
                answer.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        parser, answer = self._parser, self._answer
        if parser is None or answer is None or answer.done():
            return
        error = parser.eof()
        error.__cause__ = exc
        answer.set_exception(error if parser.started else _Stale(str(error)))


def _expire(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[WireResponse], deadline: float
) -> None:
    """The time is over. When the loop itself was late to see it, it may find timers before it finds
    what has come meanwhile: that is read first, for the endpoint is not to blame."""
    if loop.time() - deadline > COARSE:
        loop.call_later(ONE_LOOK, _give_up, answer)
    else:
        _give_up(answer)


def _give_up(answer: asyncio.Future[WireResponse]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
