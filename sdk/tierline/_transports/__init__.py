"""Transports: how one request gets to one origin and its answer back."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Literal

from tierline._exceptions import ConfigurationError
from tierline._transports.base import AsyncTransport, Buffer, Transport, WireRequest, WireResponse
from tierline._transports.idle import MAX_CONNECTIONS
from tierline._transports.mock import AsyncMockTransport, MockTransport
from tierline._transports.origin import Origin

__all__ = [
    "AsyncMockTransport",
    "AsyncTransport",
    "Buffer",
    "MockTransport",
    "Transport",
    "TransportKind",
    "WireRequest",
    "WireResponse",
    "open_async_transport",
    "open_transport",
]

TransportKind = Literal["lean", "httpx"]


def open_transport(
    url: str,
    *,
    kind: TransportKind = "lean",
    tls: ssl.SSLContext | None = None,
    headers: Sequence[tuple[str, str]] = (),
    max_connections: int = MAX_CONNECTIONS,
) -> Transport:
    """A transport to the origin ``url`` names; it connects when first used.

    ``headers`` go with every request. ``tls`` is for https (None: the system's trust). Raises
    ConfigurationError for any other URL or kind.
    """
    origin = Origin.parse(url)
    _check_connections(max_connections)
    if kind == "lean":
        from tierline._transports.lean import LeanTransport

        return LeanTransport(origin, tls=tls, headers=headers, max_connections=max_connections)
    if kind == "httpx":
        from tierline._transports.httpx_sync import HttpxTransport

        return HttpxTransport(origin, tls=tls, headers=headers, max_connections=max_connections)
    raise ConfigurationError(f"a transport is of kind 'lean' or 'httpx', not {kind!r}")


def open_async_transport(
    url: str,
    *,
    kind: TransportKind = "lean",
    tls: ssl.SSLContext | None = None,
    headers: Sequence[tuple[str, str]] = (),
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncTransport:
    """The same for asyncio; one transport serves any number of event loops, one after another."""
    origin = Origin.parse(url)
    _check_connections(max_connections)
    if kind == "lean":
        from tierline._transports.lean_async import AsyncLeanTransport

        return AsyncLeanTransport(origin, tls=tls, headers=headers, max_connections=max_connections)
    if kind == "httpx":
        from tierline._transports.httpx_async import AsyncHttpxTransport

        return AsyncHttpxTransport(
            origin, tls=tls, headers=headers, max_connections=max_connections
        )
    raise ConfigurationError(f"a transport is of kind 'lean' or 'httpx', not {kind!r}")


def _check_connections(max_connections: int) -> None:
    if max_connections < 1:
        raise ConfigurationError(
            f"must be at least 1, got {max_connections}", key="max_connections"
        )
