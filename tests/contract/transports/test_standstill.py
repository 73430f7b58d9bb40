"""An answer that came while the process stood still is read, though its time is over by then."""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tierline._exceptions import AttemptTimedOut
from tierline._transports import WireRequest, lean, open_async_transport, open_transport

from .scripted_server import ScriptedServer

AN_HOUR = 3600.0


class StandingStill:
    """A clock that jumps by an hour when told to."""

    def __init__(self) -> None:
        self.stood = 0.0

    def __call__(self) -> float:
        return monotonic() + self.stood


def wait_for_answer(sock: Any) -> None:  # Any: a plain or a TLS socket
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    assert poll.poll(5000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StandingStill:
    clock = StandingStill()
    monkeypatch.setattr(lean, "monotonic", clock)
    return clock


def after_sending(monkeypatch: pytest.MonkeyPatch, then: Callable[[Any], None]) -> None:
    send = lean._Connection._send

    def sent(self: lean._Connection, parts: Any, deadline: float) -> None:
        send(self, parts, deadline)
        then(self._sock)

    monkeypatch.setattr(lean._Connection, "_send", sent)


def test_a_thread_that_stood_still_reads_what_has_come(
    server: ScriptedServer, clock: StandingStill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_still(sock: Any) -> None:
        wait_for_answer(sock)
        clock.stood = AN_HOUR

    after_sending(monkeypatch, stand_still)
    transport = open_transport(server.url)
    assert transport.send(WireRequest("GET", "/echo"), timeout=1.0).status == 200
    transport.close()
    assert server.wait_until_all_closed(5.0)


def test_a_thread_that_stood_still_does_not_wait_for_what_has_not_come(
    server: ScriptedServer, clock: StandingStill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_still(sock: Any) -> None:
        while not server.requests:  # till it has reached the server, which cannot hang up before
            select.select([], [], [], 0.001)
        clock.stood = AN_HOUR

    after_sending(monkeypatch, stand_still)
    transport = open_transport(server.url)
    begun = monotonic()
    with pytest.raises(AttemptTimedOut):
        transport.send(WireRequest("GET", "/never"), timeout=1.0)
    assert monotonic() - begun < 0.5
    transport.close()
    assert server.wait_until_all_closed(5.0)


class DeafSelector(selectors.DefaultSelector):
    """As after a signal in mid-wait: once it says that nothing has come, though something has."""

    def __init__(self) -> None:
        super().__init__()
        self.stand_still: Callable[[], None] | None = None
        self.own: set[int] = set()  # the loop's own wake-up call

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout)
        came = [key for key, mask in events if mask & selectors.EVENT_READ]
        if self.stand_still is not None and any(key.fd not in self.own for key in came):
            self.stand_still()
            self.stand_still = None
            return []
        return events


class StoppedLoop(asyncio.SelectorEventLoop):
    def __init__(self, selector: DeafSelector) -> None:
        self.stood = 0.0
        super().__init__(selector)
        selector.own = set(selector.get_map())

    def time(self) -> float:
        return super().time() + self.stood


@pytest.mark.parametrize("path", ["/echo", "/never"])
def test_a_loop_that_stood_still_looks_once_more_and_no_longer(
    server: ScriptedServer, path: str
) -> None:
    selector = DeafSelector()
    loop = StoppedLoop(selector)

    def jump() -> None:
        loop.stood = AN_HOUR

    async def ask() -> int:
        transport = open_async_transport(server.url)
        try:
            await transport.send(WireRequest("GET", "/echo"), timeout=5.0)
            if path == "/never":
                loop.call_later(0.001, jump)
            else:
                selector.stand_still = jump
            return (await transport.send(WireRequest("GET", path), timeout=1.0)).status
        finally:
            await transport.aclose()

    begun = monotonic()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        if path == "/never":
            with pytest.raises(AttemptTimedOut):
                runner.run(ask())
        else:
            assert runner.run(ask()) == 200
    assert monotonic() - begun < 0.5
    assert server.wait_until_all_closed(5.0)
