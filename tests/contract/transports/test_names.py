"""A name that is slow to look up ends the attempt in time, and an address is never looked up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from time import monotonic
from typing import Any

import pytest

from tierline._exceptions import AttemptTimedOut, ConnectFailed
from tierline._transports import WireRequest, open_transport

from .scripted_server import ScriptedServer

SOON = 5.0  # seconds; the resolver here answers when the test is over


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A resolver that answers nobody during the test; the names it was asked for."""
    ask, over, asked = socket.getaddrinfo, threading.Event(), list[str]()

    def hanging(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return ask(host, *args, flags=flags, **kwargs)
        asked.append(host)
        over.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    yield asked
    over.set()
    for thread in threading.enumerate():
        if thread.name == "tierline-names":
            thread.join(SOON)


def test_a_resolver_that_hangs_costs_no_more_than_the_attempts_time(resolver: list[str]) -> None:
    with closing(open_transport("http://shop.test:80")) as transport:
        started = monotonic()
        with pytest.raises(AttemptTimedOut):
            transport.send(WireRequest("GET", "/"), timeout=0.05)
        assert monotonic() - started < SOON
    assert resolver == ["shop.test"]


def test_an_address_is_connected_to_without_the_resolver(
    server: ScriptedServer, resolver: list[str]
) -> None:
    with closing(open_transport(server.url)) as transport:
        assert transport.send(WireRequest("GET", "/echo"), timeout=SOON).status == 200
    assert resolver == []


def test_a_name_nobody_knows_ends_in_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with (
        closing(open_transport("http://nobody.test:80")) as transport,
        pytest.raises(ConnectFailed, match="not known"),
    ):
        transport.send(WireRequest("GET", "/"), timeout=SOON)
