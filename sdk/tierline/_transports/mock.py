"""A transport that is a function: for tests of what uses transports. Serves both twins."""

from __future__ import annotations

from collections.abc import Callable

from tierline._transports.base import WireRequest, WireResponse

Handler = Callable[[WireRequest], WireResponse]


class MockTransport:
    """Answers with ``handler(request)``; what it raises is raised. ``requests`` are those seen."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[WireRequest] = []
        self.is_closed = False

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        self.requests.append(request)
        return self._handler(request)

    def close(self) -> None:
        self.is_closed = True


class AsyncMockTransport:
    """The same for asyncio."""

    def __init__(self, handler: Handler) -> None:
        self._mock = MockTransport(handler)

    @property
    def requests(self) -> list[WireRequest]:
        return self._mock.requests

    @property
    def is_closed(self) -> bool:
        return self._mock.is_closed

    async def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        return self._mock.send(request, timeout=timeout)

    async def aclose(self) -> None:
        self._mock.close()
