"""The httpx transport for asyncio: requests run in tasks of their own and are never cancelled.

httpcore loses pool slots when a request is cancelled inside it, and never gets them back. So a
caller that leaves, or whose time is over, abandons its request, which ends by its own timeout. And
httpcore's queue grows slow when it is long: a request waits for its slot out here, where it may
be cancelled, and enters with a connection certain.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from time import monotonic

import httpx

from tierline._exceptions import AttemptTimedOut, LocalProtocolError
from tierline._transports.base import WireRequest, WireResponse
from tierline._transports.httpx_attempt import (
    HANG_UPS,
    Answer,
    AsyncBoundedBackend,
    Attempt,
    RequestBuilder,
    options,
)
from tierline._transports.httpx_errors import to_transport_error
from tierline._transports.idle import MAX_CONNECTIONS
from tierline._transports.loops import PerLoop
from tierline._transports.origin import Origin
from tierline._transports.slots import Slots


class AsyncHttpxTransport:
    """httpx's pool to one origin, one for each event loop that uses it."""

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
        self._closed = False
        self._pools: PerLoop[_Pool] = PerLoop(
            lambda: _Pool(self._open(), max_connections), _Pool.aclose
        )

    async def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        """Carry one request and bring its answer; see ``AsyncTransport``."""
        deadline = monotonic() + timeout
        if self._closed:
            raise LocalProtocolError("this transport is closed")
        pool = self._pools.get()
        await pool.slots.acquire(asyncio.get_running_loop().time() + timeout)
        task = asyncio.create_task(self._carry(pool.http, request, deadline))
        pool.keep(task)
        await asyncio.wait((task,), timeout=max(0.0, deadline - monotonic()))
        if not task.done():
            raise AttemptTimedOut(f"no whole answer within {timeout:.3f} s")
        return task.result()

    async def aclose(self) -> None:
        """End what is under way and close every connection."""
        self._closed = True
        await self._pools.aclose()

    async def _carry(
        self, http: httpx.AsyncHTTPTransport, request: WireRequest, deadline: float
    ) -> WireResponse:
        first = Attempt(deadline)
        try:
            return await self._exchange(http, request, first)
        except HANG_UPS as error:
            if not first.met_stale_connection:
                raise to_transport_error(error) from error
        except httpx.HTTPError as error:
            raise to_transport_error(error) from error
        try:
            return await self._exchange(http, request, Attempt(deadline))
        except httpx.HTTPError as error:
            raise to_transport_error(error) from error

    async def _exchange(
        self, http: httpx.AsyncHTTPTransport, request: WireRequest, attempt: Attempt
    ) -> WireResponse:
        response = await http.handle_async_request(self._requests.build(request, attempt))
        try:
            answer = Answer(response, attempt)
            async for chunk in response.aiter_raw():
                answer.take(chunk)
            return answer.whole()
        finally:
            await response.aclose()

    def _open(self) -> httpx.AsyncHTTPTransport:
        http = httpx.AsyncHTTPTransport(**self._options)
        # httpx has no parameter for it; httpcore, beneath, has.
        http._pool._network_backend = AsyncBoundedBackend()
        return http


class _Pool:
    """One event loop's httpx pool and the requests under way in it."""

    def __init__(self, http: httpx.AsyncHTTPTransport, max_connections: int) -> None:
        self.http = http
        self.slots = Slots(max_connections)
        self.tasks: set[asyncio.Task[WireResponse]] = set()

    def keep(self, task: asyncio.Task[WireResponse]) -> None:
        """Hold a request and its slot until it ends; see its outcome, if its caller is gone."""
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()  # the whole pool goes with them
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.http.aclose()

    def _ended(self, task: asyncio.Task[WireResponse]) -> None:
        self.tasks.discard(task)
        self.slots.release()
        if not task.cancelled():
            task.exception()  # marks it as seen
