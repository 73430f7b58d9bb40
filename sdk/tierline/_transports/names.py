"""Looks a name up within a deadline: the system's resolver knows none and cannot be interrupted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from time import monotonic

Found = Sequence[tuple[socket.AddressFamily, object]]


def addresses(host: str, port: int, deadline: float) -> Found:
    """Where to connect for a host: families and addresses, the system's first choice first. Raises
    TimeoutError at ``deadline`` (of ``time.monotonic``), and what the resolver raises (OSError).

    A name is asked for on a thread that is left to itself when the deadline comes first; an address
    needs neither.
    """
    try:
        return _ask(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    answer: list[Found | OSError] = []

    def ask() -> None:
        try:
            answer.append(_ask(host, port, 0))
        except OSError as error:
            answer.append(error)

    asking = threading.Thread(target=ask, name="tierline-names", daemon=True)
    asking.start()
    asking.join(max(0.0, deadline - monotonic()))
    if not answer:
        raise TimeoutError(f"the name {host!r} was not resolved in time")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


def _ask(host: str, port: int, flags: int) -> Found:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
