"""The httpx transport: for HTTP/2 and for whoever wants httpx's ways. The lean one is faster."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from time import monotonic

import httpx

from tierline._exceptions import AttemptTimedOut, LocalProtocolError
from tierline._transports.base import WireRequest, WireResponse
from tierline._transports.fork import forget_after_fork
from tierline._transports.httpx_attempt import (
    HANG_UPS,
    Answer,
    Attempt,
    BoundedBackend,
    RequestBuilder,
    options,
)
from tierline._transports.httpx_errors import to_transport_error
from tierline._transports.idle import MAX_CONNECTIONS
from tierline._transports.origin import Origin

_abandoned: list[httpx.HTTPTransport] = []  # a parent's, kept in a forked child: not ours to close


class HttpxTransport:
    """httpx's pool to one origin, with a timeout over the whole attempt."""

    def __init__(
        self,
        origin: Origin,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Sequence[tuple[str, str]] = (),
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._options = options(origin, tls, max_connections)
        self._requests = RequestBuilder(origin, headers)
        self._max_connections = max_connections
        self._closed = False
        self._slots = threading.Semaphore(max_connections)
        self._http = self._open()
        forget_after_fork(self)

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        """Carry one request and bring its answer; see ``Transport``."""
        deadline = monotonic() + timeout
        if self._closed:
            raise LocalProtocolError("this transport is closed")
        slots = self._slots  # httpcore closes good connections when callers queue inside it
        if not slots.acquire(timeout=max(0.0, timeout)):
            raise AttemptTimedOut(f"no connection came free within {timeout:.3f} s")
        try:
            return self._carry(request, deadline)
        finally:
            slots.release()

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        self._http.close()

    def forget(self) -> None:
        """In a forked child: begin with an empty pool."""
        _abandoned.append(self._http)
        self._slots = threading.Semaphore(self._max_connections)
        self._http = self._open()

    def _carry(self, request: WireRequest, deadline: float) -> WireResponse:
        first = Attempt(deadline)
        try:
            return self._exchange(request, first)
        except HANG_UPS as error:
            if not first.met_stale_connection:
                raise to_transport_error(error) from error
        except httpx.HTTPError as error:
            raise to_transport_error(error) from error
        try:
            return self._exchange(request, Attempt(deadline))
        except httpx.HTTPError as error:
            raise to_transport_error(error) from error

    def _exchange(self, request: WireRequest, attempt: Attempt) -> WireResponse:
        response = self._http.handle_request(self._requests.build(request, attempt))
        try:
            answer = Answer(response, attempt)
            for chunk in response.iter_raw():
                answer.take(chunk)
            return answer.whole()
        finally:
            response.close()

    def _open(self) -> httpx.HTTPTransport:
        http = httpx.HTTPTransport(**self._options)
        # httpx has no parameter for it; httpcore, beneath, has.
        http._pool._network_backend = BoundedBackend()
        return http
