"""Traps of the field that need no simulation to be seen."""

from __future__ import annotations

from tierline._transports.idle import IDLE_EXPIRY

SERVERS_KEEP_ALIVE = 5.0  # seconds; the default of uvicorn, gunicorn and Node.js


def test_idle_connections_are_let_go_a_second_before_servers_do() -> None:
    assert IDLE_EXPIRY <= SERVERS_KEEP_ALIVE - 1.0
