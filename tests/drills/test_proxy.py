"""The proxy between real sockets, driven over its REST API by our client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tierline_drills.errors import DrillError
from tierline_drills.proxy import ProxyClient
from tierline_drills.proxy.control import serve
from tierline_drills.proxy.server import Proxies

pytestmark = pytest.mark.drill
PATIENCE = 5.0  # seconds a test waits for what must happen


@contextmanager
def echo() -> Iterator[str]:
    """A server that answers each line with itself."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    host, port = listener.getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        listener.close()


@pytest.fixture(scope="module")
def client() -> Iterator[ProxyClient]:
    """The API of a proxy that runs in a thread."""
    ready, ports = threading.Event(), []
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def know(port: int) -> None:
        ports.append(port)
        ready.set()

    def run() -> None:
        loop.run_until_complete(serve("127.0.0.1", 0, Proxies(), stop, know))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    yield ProxyClient(f"127.0.0.1:{ports[0]}")
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE)


@pytest.fixture
def address(client: ProxyClient, request: pytest.FixtureRequest) -> Iterator[str]:
    """A proxy named "echo" in front of a new echo server."""
    with echo() as upstream:
        yield client.create("echo", upstream)
        client._ask("DELETE", "/proxies/echo")


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def test_bytes_pass_both_ways_and_are_counted(client: ProxyClient, address: str) -> None:
    with connected(address) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
    assert client.show()["echo"]["passed"] == {"upstream": 5, "downstream": 5}


def test_a_black_hole_swallows_on_open_connections_until_it_is_mended(
    client: ProxyClient, address: str
) -> None:
    with connected(address) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        client.add("echo", {"type": "timeout", "attributes": {"timeout": 0}})
        connection.sendall(b"two")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        client.clear("echo")
        connection.settimeout(PATIENCE)
        connection.sendall(b"three")
        assert connection.recv(100) == b"three"


def test_a_reset_is_a_reset_and_not_an_end(client: ProxyClient, address: str) -> None:
    with connected(address) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        client.add("echo", {"type": "reset_peer"})
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    client.clear("echo")


def test_a_proxy_that_is_down_refuses(client: ProxyClient, address: str) -> None:
    client.enable("echo", enabled=False)
    with pytest.raises(ConnectionRefusedError):
        connected(address)
    client.reset()
    with connected(address) as connection:
        connection.sendall(b"up")
        assert connection.recv(100) == b"up"


def test_a_limit_ends_the_answer_in_the_middle(client: ProxyClient, address: str) -> None:
    client.add("echo", {"type": "limit_data", "attributes": {"bytes": 3}})
    with connected(address) as connection:
        connection.sendall(b"hello")
        received = b""
        while data := connection.recv(100):
            received += data
    assert received == b"hel"


def test_the_api_answers_as_toxiproxy_does(client: ProxyClient, address: str) -> None:
    client.add("echo", {"type": "latency", "attributes": {"latency": 1}})
    with pytest.raises(DrillError, match="already exists"):
        client.add("echo", {"type": "latency"})
    with pytest.raises(DrillError, match="toxic not found"):
        client.remove("echo", "no-such")
    with pytest.raises(DrillError, match="proxy not found"):
        client.add("no-such", {"type": "latency"})
    with pytest.raises(DrillError, match="type must be one of"):
        client.add("echo", {"type": "earthquake"})
    with pytest.raises(DrillError, match="missing required field"):
        client._ask("POST", "/proxies", {"name": "x"})
    assert client._ask("GET", "/version")["version"]
    (shown,) = client._ask("GET", "/proxies/echo/toxics")
    assert shown["name"] == "latency_downstream"
    changed = client._ask("POST", "/proxies/echo/toxics/latency_downstream", {"toxicity": 0.5})
    assert changed["toxicity"] == 0.5


def test_populating_twice_changes_nothing(client: ProxyClient) -> None:
    with echo() as upstream:
        wanted = [{"name": "two", "listen": "127.0.0.1:0", "upstream": upstream}]
        (made,) = client._ask("POST", "/populate", wanted)["proxies"]
        same = [{**wanted[0], "listen": made["listen"]}]
        (again,) = client._ask("POST", "/populate", same)["proxies"]
        client._ask("DELETE", "/proxies/two")
    assert made == again
