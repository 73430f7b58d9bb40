"""httpx's exceptions as ours: one table, and a test that no exception is missing from it."""

from __future__ import annotations

from typing import Final

import httpx

from tierline._exceptions import (
    AttemptTimedOut,
    ConnectFailed,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)

HTTPX_ERRORS: Final[dict[type[httpx.HTTPError], type[TransportError]]] = {
    httpx.CloseError: RemoteProtocolError,
    httpx.ConnectError: ConnectFailed,
    httpx.ConnectTimeout: AttemptTimedOut,
    httpx.DecodingError: RemoteProtocolError,
    httpx.HTTPStatusError: RemoteProtocolError,
    httpx.LocalProtocolError: LocalProtocolError,
    httpx.NetworkError: RemoteProtocolError,
    httpx.PoolTimeout: AttemptTimedOut,
    httpx.ProtocolError: RemoteProtocolError,
    httpx.ProxyError: ConnectFailed,
    httpx.ReadError: RemoteProtocolError,
    httpx.ReadTimeout: AttemptTimedOut,
    httpx.RemoteProtocolError: RemoteProtocolError,
    httpx.TimeoutException: AttemptTimedOut,
    httpx.TooManyRedirects: RemoteProtocolError,
    httpx.UnsupportedProtocol: LocalProtocolError,
    httpx.WriteError: RemoteProtocolError,
    httpx.WriteTimeout: AttemptTimedOut,
}


def to_transport_error(error: httpx.HTTPError) -> TransportError:
    """A fresh TransportError for what httpx raised."""
    for kind in type(error).__mro__:
        if kind in HTTPX_ERRORS:
            return HTTPX_ERRORS[kind](f"{type(error).__name__}: {error}")
    return RemoteProtocolError(f"{type(error).__name__}: {error}")
