"""A load generator on one core: plain sockets and epoll, closed loop (callers) or open (a rate).

It costs some 12 µs a call, an eighth of what the fastest server here spends on one. In the open
loop a call's latency counts from the instant it was due, whether a connection was free or not.
"""

from __future__ import annotations

import gc
import random
import re
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CONNECTIONS = 512  # of an open loop
_PATIENCE = 10.0  # seconds without an answer after which the run is given up


@dataclass(slots=True)
class Measured:
    """What came of a run: seconds from due (or sent) to answered, by HTTP status."""

    seconds: float = 0.0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # 429
    failed: dict[int, int] = field(default_factory=dict)  # any other status → how many
    offered: int = 0

    def count(self, status: int, latency: float) -> None:
        """Take in one answer."""
        if status == 200:
            self.answered.append(latency)
        elif status == 429:
            self.refused.append(latency)
        else:
            self.failed[status] = self.failed.get(status, 0) + 1

    def add(self, other: Measured) -> None:
        """Take in another run."""
        self.seconds += other.seconds
        self.offered += other.offered
        self.answered += other.answered
        self.refused += other.refused
        for status, times in other.failed.items():
            self.failed[status] = self.failed.get(status, 0) + times

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.answered) / self.seconds


def quantile(values: list[float], share: float) -> float:
    """The value below which ``share`` of them lie; NaN for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def queue_tail(load: float, calls: int = 200_000, seed: int = 1) -> float:
    """p99 ÷ p50 of the time in a queue with random arrivals (Poisson) and one server that takes
    the same time for each: what a server that does not batch cannot beat at this load."""
    dice = random.Random(seed)
    arrived = ends = 0.0
    took = []
    for _ in range(calls):
        arrived += dice.expovariate(load)
        ends = max(arrived, ends) + 1.0
        took.append(ends - arrived)
    return quantile(took, 0.99) / quantile(took, 0.5)


class Connection:
    """One kept-alive connection with at most one call under way."""

    __slots__ = ("_left", "_parts", "_size", "began", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.began = 0.0
        self._left = memoryview(b"")
        self._parts = b""
        self._size = 0

    def send(self, message: bytes, began: float) -> None:
        """Begin a call; what the kernel does not take at once goes out with ``push``."""
        self.began = began
        sent = self.socket.send(message)
        while sent < len(message):  # beyond the socket's buffer: large requests only
            select.select((), (self.socket,), (), _PATIENCE)
            sent += self.socket.send(memoryview(message)[sent:])

    def ask(self, message: bytes) -> None:
        """One call from end to end, its answer forgotten."""
        self.send(message, 0.0)
        while True:
            if not select.select((self.socket,), (), (), _PATIENCE)[0]:
                raise TimeoutError("a connection's first call has no answer")
            if self.receive():
                return

    def receive(self) -> int:
        """The status of the answer when it is whole, else 0."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server hung up")
        self._parts = self._parts + data if self._parts else data
        if not self._size:
            end = self._parts.find(b"\r\n\r\n")
            if end < 0:
                return 0
            found = _LENGTH.search(self._parts, 0, end + 2)
            if found is None:
                raise ValueError(f"an answer without a length: {self._parts[:end]!r}")
            self._size = end + 4 + int(found[1])
        if len(self._parts) < self._size:
            return 0
        status = int(self._parts[9:12])
        self._parts, self._size = b"", 0
        return status


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile: with the models' libraries imported, one takes 25 ms, and
    every call due then would count them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@undisturbed()
def closed(port: int, message: bytes, callers: int, seconds: float) -> Measured:
    """``callers`` connections, each sending its next call when the last one is answered."""
    measured = Measured()
    poll = select.epoll()
    connections = {
        each.socket.fileno(): each for each in (Connection(port) for _ in range(callers))
    }
    for number in connections:
        poll.register(number, select.EPOLLIN)
    clock = time.perf_counter
    begun = clock()
    for connection in connections.values():
        connection.send(message, clock())
    under_way = callers
    while under_way:
        events = poll.poll(_PATIENCE)
        if not events:
            raise TimeoutError(f"{under_way} calls without an answer")
        for number, _ in events:
            connection = connections[number]
            status = connection.receive()
            if not status:
                continue
            now = clock()
            measured.count(status, now - connection.began)
            measured.offered += 1
            if now - begun < seconds:
                connection.send(message, now)
            else:
                under_way -= 1
    measured.seconds = clock() - begun
    _close(poll, connections)
    return measured


@undisturbed()
def open_loop(port: int, message: bytes, rate: float, seconds: float, *, seed: int = 1) -> Measured:
    """Calls fall due at random instants, ``rate`` a second (Poisson), whatever the answers do, on
    connections that have carried a call before: nobody's pool is opened while he is flooded."""
    dice, measured = random.Random(seed), Measured()
    poll = select.epoll()
    made = {each.socket.fileno(): each for each in (Connection(port) for _ in range(CONNECTIONS))}
    for each in made.values():
        each.ask(message)
    for number in made:
        poll.register(number, select.EPOLLIN)
    free = list(made.values())
    waiting: deque[float] = deque()
    clock = time.perf_counter
    begun = clock()
    due, ends, under_way = begun, begun + seconds, 0
    last = begun
    while under_way or waiting or due < ends:
        now = clock()
        while due <= now and due < ends:
            waiting.append(due)
            measured.offered += 1
            due += dice.expovariate(rate)
        while waiting and free:
            free.pop().send(message, waiting.popleft())
            under_way += 1
        for number, _ in poll.poll(0):
            connection = made[number]
            status = connection.receive()
            if status:
                last = clock()
                measured.count(status, last - connection.began)
                free.append(connection)
                under_way -= 1
        if now - last > _PATIENCE and under_way:
            raise TimeoutError(f"{under_way} calls without an answer")
    measured.seconds = seconds
    _close(poll, made)
    return measured


def _close(poll: select.epoll, connections: dict[int, Connection]) -> None:
    for connection in connections.values():
        connection.socket.close()
    poll.close()


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
