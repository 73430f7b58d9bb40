"""One face for both twins, so that one suite judges all transports."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from tierline._transports import (
    AsyncTransport,
    Transport,
    TransportKind,
    WireRequest,
    WireResponse,
    open_async_transport,
    open_transport,
)


class Driver(Protocol):
    def send(self, request: WireRequest, timeout: float = 5.0) -> WireResponse: ...

    def send_all(
        self, requests: Sequence[WireRequest], *, callers: int, timeout: float = 5.0
    ) -> list[WireResponse]: ...

    def in_another_world(self, request: WireRequest) -> WireResponse:
        """Send from another thread or event loop than ``send`` does."""
        ...

    def close_transport(self) -> None: ...

    def close(self) -> None:
        """Close the transport, and the event loop where there is one."""
        ...


class SyncDriver:
    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def send(self, request: WireRequest, timeout: float = 5.0) -> WireResponse:
        return self.transport.send(request, timeout=timeout)

    def send_all(
        self, requests: Sequence[WireRequest], *, callers: int, timeout: float = 5.0
    ) -> list[WireResponse]:
        with ThreadPoolExecutor(callers) as pool:
            return list(pool.map(lambda each: self.send(each, timeout), requests))

    def in_another_world(self, request: WireRequest) -> WireResponse:
        answers: list[WireResponse] = []
        thread = threading.Thread(target=lambda: answers.append(self.send(request)))
        thread.start()
        thread.join(10)
        return answers[0]

    def close_transport(self) -> None:
        self.transport.close()

    def close(self) -> None:
        self.close_transport()


class AsyncDriver:
    def __init__(self, transport: AsyncTransport) -> None:
        self.transport = transport
        self.runner = asyncio.Runner()

    def send(self, request: WireRequest, timeout: float = 5.0) -> WireResponse:
        return self.runner.run(self.transport.send(request, timeout=timeout))

    def send_all(
        self, requests: Sequence[WireRequest], *, callers: int, timeout: float = 5.0
    ) -> list[WireResponse]:
        async def caller(queue: list[tuple[int, WireRequest]], answers: list[object]) -> None:
            while queue:
                index, request = queue.pop()
                answers[index] = await self.transport.send(request, timeout=timeout)

        async def main() -> list[WireResponse]:
            queue = list(enumerate(requests))
            answers: list[object] = [None] * len(queue)
            await asyncio.gather(*(caller(queue, answers) for _ in range(callers)))
            return answers  # type: ignore[return-value]

        return self.runner.run(main())

    def in_another_world(self, request: WireRequest) -> WireResponse:
        return asyncio.run(self.transport.send(request, timeout=5.0))

    def close_transport(self) -> None:
        self.runner.run(self.transport.aclose())

    def close(self) -> None:
        self.close_transport()
        self.runner.close()


KINDS = ("sync-lean", "sync-httpx", "async-lean", "async-httpx")


def open_driver(
    kind: str,
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    headers: Sequence[tuple[str, str]] = (),
    max_connections: int = 20,
) -> SyncDriver | AsyncDriver:
    twin, _, library = kind.partition("-")
    chosen: TransportKind = "httpx" if library == "httpx" else "lean"
    if twin == "sync":
        return SyncDriver(
            open_transport(
                url, kind=chosen, tls=tls, headers=headers, max_connections=max_connections
            )
        )
    return AsyncDriver(
        open_async_transport(
            url, kind=chosen, tls=tls, headers=headers, max_connections=max_connections
        )
    )
