"""What httpx does not do for one attempt: a total timeout, and telling a stale connection apart.

httpx's timeouts are per read, so an endpoint that drips bytes stretches them without end. The
network streams below cut every read and write to what is left of the attempt they serve.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from time import monotonic
from typing import Any

import httpcore
import httpx
from httpcore._backends.sync import SyncStream

from tierline._exceptions import AttemptTimedOut, LocalProtocolError, RemoteProtocolError
from tierline._transports.base import WireRequest, WireResponse
from tierline._transports.http1 import MAX_BODY, declared_length, field_lines, request_head
from tierline._transports.idle import IDLE_EXPIRY
from tierline._transports.origin import Origin

# What a connection closed before one byte of the answer looks like.
HANG_UPS = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

SocketOptions = Iterable[Any] | None  # Any: httpcore's own union of setsockopt arguments


@dataclass(slots=True)
class Attempt:
    """One attempt's clock, and what happened to it on the network."""

    deadline: float
    connected: bool = False
    received: bool = False

    def left(self) -> float:
        """Seconds left. Raises AttemptTimedOut when there are none."""
        left = self.deadline - monotonic()
        if left <= 0.0:
            raise AttemptTimedOut("no whole answer within the attempt's timeout")
        return left

    @property
    def met_stale_connection(self) -> bool:
        return not self.connected and not self.received


_attempt: ContextVar[Attempt | None] = ContextVar("tierline_httpx_attempt", default=None)


def options(origin: Origin, tls: ssl.SSLContext | None, max_connections: int) -> dict[str, Any]:
    """Keyword arguments of httpx's transports, the same for both twins."""
    verify = (tls or ssl.create_default_context()) if origin.is_tls else False
    return {
        "verify": verify,
        "http2": origin.is_tls and find_spec("h2") is not None,
        "uds": origin.path or None,
        "trust_env": False,
        # Keep-alive below the maximum makes httpcore close connections in use (its issue 1093 on).
        "limits": httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=IDLE_EXPIRY,
        ),
    }


class RequestBuilder:
    """Turns our requests into httpx's, checked as the lean transport checks them."""

    def __init__(self, origin: Origin, headers: Iterable[tuple[str, str]]) -> None:
        self._base_url = origin.base_url
        self._standing = list(headers)
        field_lines(self._standing)

    def build(self, request: WireRequest, attempt: Attempt) -> httpx.Request:
        """Start ``attempt`` in this context. Raises LocalProtocolError, AttemptTimedOut."""
        request_head(request, "")
        _attempt.set(attempt)
        try:
            return httpx.Request(
                request.method,
                self._base_url + request.path,
                headers=[*self._standing, *request.headers],
                content=b"".join(request.body),
                extensions={"timeout": httpx.Timeout(attempt.left()).as_dict()},
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise LocalProtocolError(f"httpx refuses the request: {error}") from error


class Answer:
    """Collects one answer's body, within the limits."""

    def __init__(self, response: httpx.Response, attempt: Attempt) -> None:
        self._response = response
        self._attempt = attempt
        self._body = bytearray()
        self._headers = {name.lower(): value for name, value in response.headers.items()}
        if response.http_version != "HTTP/2":
            minor = "0" if response.http_version == "HTTP/1.0" else "1"
            declared_length(response.status_code, self._headers, minor=minor)

    def take(self, chunk: bytes) -> None:
        """Raises RemoteProtocolError beyond the limit, AttemptTimedOut beyond the time."""
        self._attempt.left()
        self._body += chunk
        if len(self._body) > MAX_BODY:
            raise RemoteProtocolError(f"the answer's body is over {MAX_BODY} bytes")

    def whole(self) -> WireResponse:
        status = self._response.status_code
        return WireResponse(status=status, headers=self._headers, body=bytes(self._body))


class BoundedStream(httpcore.NetworkStream):
    """A network stream whose every wait ends with the attempt it serves."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, bounded(timeout, httpcore.ReadTimeout))
        _note_received(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, bounded(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        timeout = bounded(timeout, httpcore.ConnectTimeout)
        return BoundedStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # Any: as httpcore has it
        return self._stream.get_extra_info(info)


class BoundedBackend(httpcore.NetworkBackend):
    """Opens bounded streams."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore.NetworkStream:
        timeout = bounded(timeout, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        note_connected()
        return BoundedStream(stream)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: SocketOptions = None
    ) -> httpcore.NetworkStream:
        timeout = bounded(timeout, httpcore.ConnectTimeout)
        # Not httpcore's own: it leaves the socket open when nobody answers there.
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
        except TimeoutError as error:
            sock.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            sock.close()
            raise httpcore.ConnectError(str(error)) from error
        note_connected()
        return BoundedStream(SyncStream(sock))


class AsyncBoundedStream(httpcore.AsyncNetworkStream):
    """The same for asyncio."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(max_bytes, bounded(timeout, httpcore.ReadTimeout))
        _note_received(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, bounded(timeout, httpcore.WriteTimeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        timeout = bounded(timeout, httpcore.ConnectTimeout)
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return AsyncBoundedStream(stream)

    def get_extra_info(self, info: str) -> Any:  # Any: as httpcore has it
        return self._stream.get_extra_info(info)


class AsyncBoundedBackend(httpcore.AsyncNetworkBackend):
    """The same for asyncio."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore.AsyncNetworkStream:
        timeout = bounded(timeout, httpcore.ConnectTimeout)
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        note_connected()
        return AsyncBoundedStream(stream)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: SocketOptions = None
    ) -> httpcore.AsyncNetworkStream:
        timeout = bounded(timeout, httpcore.ConnectTimeout)
        stream = await self._backend.connect_unix_socket(path, timeout, socket_options)
        note_connected()
        return AsyncBoundedStream(stream)

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def bounded(timeout: float | None, error: type[httpcore.TimeoutException]) -> float | None:
    """``timeout`` cut to what is left of this context's attempt."""
    attempt = _attempt.get()
    if attempt is None:
        return timeout
    left = attempt.deadline - monotonic()
    if left <= 0.0:
        raise error("the attempt's time is over")
    return left if timeout is None else min(timeout, left)


def note_connected() -> None:
    attempt = _attempt.get()
    if attempt is not None:
        attempt.connected = True


def _note_received(data: bytes) -> None:
    attempt = _attempt.get()
    if attempt is not None and data:
        attempt.received = True
