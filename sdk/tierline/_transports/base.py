"""What a transport is: one method that carries one request to one origin and brings the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview


class WireRequest(NamedTuple):
    """One HTTP request. ``body`` is sent as its parts, one after another, without joining them."""

    method: str  # "GET" | "POST"
    path: str
    headers: Sequence[tuple[str, str]] = ()
    body: Sequence[Buffer] = ()


class WireResponse(NamedTuple):
    """One HTTP answer, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: Buffer = b""


class Transport(Protocol):
    """Carries requests to one origin (``http://host:port``, ``https://…`` or ``unix:///path``).

    You may call ``send`` from many threads at once. ``timeout`` (seconds) bounds the whole attempt:
    waiting for a connection, connecting, sending and reading the last byte. What came while this
    process stood still is read all the same (by the lean ones; httpx's own timers give it up). A
    request that met a stale kept-alive connection (closed before one byte of the answer) is sent
    again once, on a fresh one: score calls are pure. Raises TransportError subclasses, no others.
    """

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same for asyncio. Cancelling ``send`` leaks nothing: no connection, slot or task."""

    async def send(self, request: WireRequest, *, timeout: float) -> WireResponse: ...

    async def aclose(self) -> None: ...
