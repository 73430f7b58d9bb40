"""The relay passes bytes, holds them while it is cut, and delivers them once it is joined again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from relay import Relay

PATIENCE = 10.0  # seconds for bytes that must come
SILENCE = 0.15  # seconds in which bytes that must not come would have come


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets, one thread a connection."""

    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE)


def was_hung_up(wire: socket.socket) -> bool:
    try:
        return wire.recv(100) == b""
    except ConnectionResetError:
        return True


def test_bytes_pass_both_ways(echo_port: int) -> None:
    with Relay(echo_port) as relay, connect(relay) as wire:
        wire.sendall(b"there and back")
        assert wire.recv(100) == b"there and back"


def test_a_cut_relay_is_silent_on_open_and_on_new_connections(echo_port: int) -> None:
    with Relay(echo_port) as relay, connect(relay) as old:
        old.sendall(b"warm")
        assert old.recv(100) == b"warm"
        relay.cut()
        with connect(relay) as new:
            for wire in (old, new):
                wire.sendall(b"lost?")
                wire.settimeout(SILENCE)
                with pytest.raises(TimeoutError):
                    wire.recv(100)


def test_held_bytes_arrive_after_the_relay_is_restored(echo_port: int) -> None:
    with Relay(echo_port) as relay, connect(relay) as wire:
        relay.cut()
        wire.sendall(b"held")
        wire.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            wire.recv(100)
        relay.restore()
        wire.settimeout(PATIENCE)
        assert wire.recv(100) == b"held"


def test_a_server_that_is_down_hangs_up_on_the_caller() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Relay(port) as relay, connect(relay) as wire:
        assert was_hung_up(wire)


def test_closing_drops_open_connections_and_ends_the_thread(echo_port: int) -> None:
    relay = Relay(echo_port).start()
    with connect(relay) as wire:
        wire.sendall(b"open")
        assert wire.recv(100) == b"open"
        relay.cut()
        relay.close()
        relay.close()
        assert was_hung_up(wire)
    assert "relay" not in [thread.name for thread in threading.enumerate()]
