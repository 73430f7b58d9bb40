"""Actions an experiment may name: more calls than the fleet can answer, everything restarted at
once, and watchers that are lost.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

from tierline_drills.control import current
from tierline_drills.fleet import Node
from tierline_drills.session import COMING_UP

WAIT_FOR_SINK = 1.0  # seconds a node that reports before it answers would wait for its sink


def surge(rate: float) -> str:
    """From now on callers call so many times a second."""
    session = current()
    session.tell("inject", f"{rate:g} calls a second", session.fleet.edges)
    session.load.set_rate(rate)
    return f"{rate:g} calls a second"


def calm(quietly: bool = False) -> str:
    """Callers call as often as before."""
    session = current()
    session.load.set_rate(float(session.load_settings.get("rate", 40.0)))
    if not quietly:
        session.tell("clear", "callers call as before", session.fleet.edges)
    return "calm"


def restart_everything(nodes: list[str]) -> str:
    """Kill these nodes and every client at one instant. The supervisor brings the nodes back, cold;
    new client processes know nothing of the fleet and begin to call meanwhile."""
    session = current()
    session.tell("inject", f"{', '.join(nodes)} and every client restart", tuple(nodes))
    for node in nodes:
        session.fleet.kill(node)
    session.load.restart(session.now() + COMING_UP)
    return f"restarted {nodes} and every client"


def lose_metrics(connections: int = 20) -> str:
    """Whoever collects metrics hangs: on every node it holds connections on which it asked and
    never reads, and others on which it never finishes asking. Where nodes wait for their sink
    before they answer (``fleet.waits_for_sink``, a negative control), they now wait."""
    session = current()
    session.tell("inject", "the metrics' collector hangs", ())
    hanging = Hanging()
    session.at_end.append(hanging)
    for node in session.fleet.nodes.values():
        hanging.hang_on(node, connections)
    if session.fleet_settings.get("waits_for_sink"):
        for node in session.fleet.nodes.values():
            if node.faulty:
                session.fleet.set_fault(node.name, {"kind": "slow", "seconds": WAIT_FOR_SINK})
    return f"{len(hanging.sockets)} connections hang"


def find_metrics(quietly: bool = False) -> str:
    """The collector is well again."""
    session = current()
    for hanging in session.at_end:
        hanging.close()
    for node in session.fleet.nodes.values():
        if node.faulty:
            session.fleet.set_fault(node.name, None)
    if not quietly:
        session.tell("clear", "the metrics' collector reads again", ())
    return "found"


@dataclass(slots=True)
class Hanging:
    """Connections that nobody reads from."""

    sockets: list[socket.socket] = field(default_factory=list)

    def hang_on(self, node: Node, connections: int) -> None:
        """Open so many to a node's page of metrics; half of them never end their question."""
        for number in range(connections):
            one = socket.socket()
            self.sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            one.settimeout(1.0)
            one.connect((node.host, node.port))
            end = b"\r\n\r\n" if number % 2 else b""
            one.sendall(b"GET /metrics HTTP/1.1\r\nhost: " + node.host.encode() + end)

    def close(self) -> None:
        """Hang up."""
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.close()
        self.sockets.clear()
