"""What transports are made of: origins, idle connections, partial writes, error tables."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from dataclasses import dataclass
from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._exceptions import ConfigurationError, TransportError
from tierline._transports import (
    AsyncMockTransport,
    MockTransport,
    WireRequest,
    WireResponse,
    open_async_transport,
    open_transport,
)
from tierline._transports.httpx_errors import HTTPX_ERRORS, to_transport_error
from tierline._transports.idle import IDLE_EXPIRY, MAX_AGE, IdleConnections, retirement
from tierline._transports.lean import skip
from tierline._transports.origin import Origin


@dataclass(eq=False)
class FakeConnection:
    retire_at: float = 1e9
    is_open: bool = True


def test_the_connection_used_last_is_used_next() -> None:
    idle: IdleConnections[FakeConnection] = IdleConnections()
    first, second = FakeConnection(), FakeConnection()
    assert idle.put(first, 0.0)
    assert idle.put(second, 0.0)
    assert idle.take(1.0) == (second, [])
    assert idle.take(1.0) == (first, [])
    assert idle.take(1.0) == (None, [])


def test_a_connection_idle_for_too_long_is_closed() -> None:
    idle: IdleConnections[FakeConnection] = IdleConnections()
    old, young = FakeConnection(), FakeConnection()
    idle.put(old, 0.0)
    idle.put(young, 1.0)
    assert idle.take(IDLE_EXPIRY + 0.5) == (young, [old])


def test_a_connection_past_its_age_is_neither_kept_nor_used() -> None:
    idle: IdleConnections[FakeConnection] = IdleConnections()
    aged = FakeConnection(retire_at=10.0)
    assert idle.put(aged, 9.0)
    assert idle.take(10.0) == (None, [aged])
    assert not idle.put(aged, 10.0)


def test_a_connection_the_endpoint_closed_is_not_used() -> None:
    idle: IdleConnections[FakeConnection] = IdleConnections()
    gone = FakeConnection()
    idle.put(gone, 0.0)
    gone.is_open = False
    assert idle.take(1.0) == (None, [gone])


def test_connections_opened_together_do_not_retire_together() -> None:
    rng = Random(3)
    ends = [retirement(0.0, rng) for _ in range(1000)]
    assert 0.9 * MAX_AGE <= min(ends) < 0.92 * MAX_AGE
    assert 1.08 * MAX_AGE < max(ends) <= 1.1 * MAX_AGE


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1), st.integers(0, 100))
def test_what_a_partial_write_left_is_what_is_sent_next(parts: list[bytes], sent: int) -> None:
    whole = b"".join(parts)
    queue = [memoryview(part) for part in parts]
    left = skip(queue, min(sent, len(whole)))
    assert b"".join(queue) == whole[sent:]
    assert left == (sent < len(whole))


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://edge-1:8080", "edge-1:8080"),
        ("http://edge-1", "edge-1"),
        ("https://edge-1:443/", "edge-1"),
        ("https://edge-1:80", "edge-1:80"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("unix:///run/tierline.sock", "localhost"),
    ],
)
def test_an_origin_knows_its_authority(url: str, authority: str) -> None:
    assert Origin.parse(url).authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "edge-1:8080",
        "ftp://edge-1",
        "http://",
        "http://edge-1:0",
        "http://edge-1:99999",
        "http://edge-1:x",
        "http://[::1",
        "http://user:secret@edge-1",
        "http://edge-1/path",
        "http://edge-1?x=1",
        "http://edge-1#x",
        "http://edgé",
        "http://a b",
        "unix://relative/path",
        "unix:///",
        "unix:",
        "embedded:bundle",
    ],
)
def test_what_is_no_origin_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_transport(url)
    with pytest.raises(ConfigurationError):
        open_async_transport(url)


def test_a_refused_url_never_shows_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_transport("http://user:secret@edge-1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("open_", [open_transport, open_async_transport])
def test_only_known_kinds_and_sizes_are_opened(open_: object) -> None:
    with pytest.raises(ConfigurationError):
        open_("http://a", kind="carrier-pigeon")  # type: ignore[operator]
    with pytest.raises(ConfigurationError):
        open_("http://a", max_connections=0)  # type: ignore[operator]


def test_every_httpx_exception_is_in_the_table() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(httpx, inspect.isclass)
        if issubclass(kind, httpx.HTTPError)
    }
    assert kinds - {httpx.HTTPError, httpx.RequestError, httpx.TransportError} == set(HTTPX_ERRORS)
    for kind in HTTPX_ERRORS:
        assert isinstance(to_transport_error(kind.__new__(kind)), TransportError)


def test_lean_transports_do_not_import_httpx() -> None:
    code = (
        "import sys; from tierline._transports import open_transport, open_async_transport;"
        "open_transport('http://a'); open_async_transport('http://a');"
        "sys.exit('httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_function_is_a_transport_of_both_kinds() -> None:
    request = WireRequest("GET", "/x")
    mock = MockTransport(lambda request: WireResponse(200, body=request.path.encode()))
    twin = AsyncMockTransport(lambda request: WireResponse(200, body=request.path.encode()))
    assert mock.send(request, timeout=1.0).body == b"/x"
    assert asyncio.run(twin.send(request, timeout=1.0)).body == b"/x"
    mock.close()
    asyncio.run(twin.aclose())
    assert (mock.requests, twin.requests) == ([request], [request])
    assert (mock.is_closed, twin.is_closed) == (True, True)
