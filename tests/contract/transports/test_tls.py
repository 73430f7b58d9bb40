"""https: who is trusted, and that frames come through."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import pytest
import trustme

from tierline._exceptions import AttemptTimedOut, ConnectFailed
from tierline._transports import WireRequest

from .drivers import open_driver
from .scripted_server import ScriptedServer


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[ScriptedServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with ScriptedServer(tls=context) as server:
        yield server


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_frames_come_through_tls_on_one_connection(
    kind: str, tls_server: ScriptedServer, trust: ssl.SSLContext
) -> None:
    driver = open_driver(kind, tls_server.url, tls=trust)
    body = os.urandom(1 << 20)
    for _ in range(3):
        answer = driver.send(WireRequest("POST", "/echo", (), (b"head", body)))
        assert bytes(answer.body) == b"head" + body
    driver.close()
    assert tls_server.connects == 1


def test_a_stale_tls_connection_is_replaced(
    kind: str, tls_server: ScriptedServer, trust: ssl.SSLContext
) -> None:
    driver = open_driver(kind, tls_server.url, tls=trust)
    answers = [driver.send(WireRequest("GET", "/once")).body for _ in range(2)]
    driver.close()
    assert answers == [b"ok", b"ok"]


def test_an_endpoint_nobody_vouches_for_is_not_talked_to(
    kind: str, tls_server: ScriptedServer
) -> None:
    driver = open_driver(kind, tls_server.url, tls=ssl.create_default_context())
    with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
        driver.send(WireRequest("GET", "/echo"))
    driver.close()
    assert tls_server.requests == []


def test_an_endpoint_that_never_shakes_hands_times_out(
    kind: str, http_server: ScriptedServer, trust: ssl.SSLContext
) -> None:
    url = http_server.url.replace("http://127.0.0.1", "https://localhost")
    driver = open_driver(kind, url, tls=trust)
    with pytest.raises(AttemptTimedOut):
        driver.send(WireRequest("GET", "/echo"), timeout=0.2)
    driver.close()
    assert http_server.wait_until_all_closed(5.0)


def test_one_tls_context_serves_both_libraries(
    tls_server: ScriptedServer, trust: ssl.SSLContext
) -> None:
    for kind in ("sync-httpx", "sync-lean", "async-httpx", "async-lean"):
        driver = open_driver(kind, tls_server.url, tls=trust)
        assert driver.send(WireRequest("POST", "/echo", (), (b"x",))).body == b"x"
        driver.close()
