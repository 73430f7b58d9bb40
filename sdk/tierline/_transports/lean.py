"""The lean transport: blocking sockets, kept alive, one write a request and one read an answer."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Sequence
from random import Random
from time import monotonic

from tierline._exceptions import (
    AttemptTimedOut,
    ConnectFailed,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from tierline._transports.base import Buffer, WireRequest, WireResponse
from tierline._transports.fork import forget_after_fork
from tierline._transports.http1 import ResponseParser, body_length, field_lines, request_head
from tierline._transports.idle import MAX_CONNECTIONS, IdleConnections, retirement
from tierline._transports.names import addresses
from tierline._transports.origin import Origin

_READ_SIZE = 64 * 1024
_MAX_PARTS = 512  # of one sendmsg; Linux takes 1024
COARSE = 0.010  # seconds a kernel's timeout may come late: a tick of its slowest clock


class LeanTransport:
    """A pool of kept-alive connections to one origin, for any number of threads."""

    def __init__(
        self,
        origin: Origin,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Sequence[tuple[str, str]] = (),
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._origin = origin
        self._tls = (tls or ssl.create_default_context()) if origin.is_tls else None
        self._standing = f"host: {origin.authority}\r\n{field_lines(headers)}"
        self._max_connections = max_connections
        self._closed = False
        self._pool = _Pool(max_connections)
        forget_after_fork(self)

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        """Carry one request and bring its answer; see ``Transport``."""
        deadline = monotonic() + timeout
        parts = [request_head(request, self._standing), *request.body]
        if self._closed:
            raise LocalProtocolError("this transport is closed")
        pool = self._pool
        try:
            return self._exchange(pool, parts, deadline)
        except TimeoutError as error:
            raise AttemptTimedOut(f"no whole answer within {timeout:.3f} s") from error

    def close(self) -> None:
        """Close the idle connections; those in use close when their answer is in."""
        self._closed = True
        self._pool.close()

    def forget(self) -> None:
        """In a forked child: begin with an empty pool. Closing our copies leaves the parent's."""
        abandoned, self._pool = self._pool, _Pool(self._max_connections)
        for connection in abandoned.idle.clear():  # no lock: its holder may not exist here
            connection.close()

    def _exchange(self, pool: _Pool, parts: list[Buffer], deadline: float) -> WireResponse:
        connection = pool.take(deadline)
        reusable = False
        try:
            if connection is not None and connection.is_quiet():
                try:
                    response, reusable = connection.exchange(parts, deadline)
                    return response
                except _Stale:
                    pass  # score calls are pure: once more, on a fresh connection
            if connection is not None:
                connection.close()
            connection = self._connect(pool, deadline)
            response, reusable = connection.exchange(parts, deadline)
            return response
        except _Stale as stale:
            raise RemoteProtocolError(str(stale)) from stale.__cause__
        finally:
            pool.give_back(connection, reusable=reusable)

    def _connect(self, pool: _Pool, deadline: float) -> _Connection:
        sock = None
        try:
            sock = _open_socket(self._origin, deadline)
            if self._tls is not None:
                # httpx sets this on a context it shares with us; we speak HTTP/1.1 only.
                self._tls.set_alpn_protocols(["http/1.1"])
                sock.settimeout(_remaining(deadline))
                sock = self._tls.wrap_socket(sock, server_hostname=self._origin.host)
        except TimeoutError:
            _close(sock)
            raise
        except (OSError, UnicodeError) as error:  # UnicodeError: no such host name
            _close(sock)
            raise ConnectFailed(f"cannot connect to {self._origin.authority}: {error}") from error
        except BaseException:
            _close(sock)
            raise
        return _Connection(sock, retirement(monotonic(), pool.rng))


class _Pool:
    """The connections of one process: slots for all, a list of the idle ones."""

    def __init__(self, max_connections: int) -> None:
        self.idle: IdleConnections[_Connection] = IdleConnections()
        self.rng = Random()
        self._free = max_connections
        self._waiting = 0
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._closed = False

    def take(self, deadline: float) -> _Connection | None:
        """Wait for a slot; the idle connection to use, or None: open one. Raises TimeoutError."""
        with self._lock:
            while self._free == 0:
                self._wait(deadline)
            self._free -= 1
            connection, to_close = self.idle.take(monotonic())
        for old in to_close:
            old.close()
        return connection

    def give_back(self, connection: _Connection | None, *, reusable: bool) -> None:
        """Free the slot, and keep the connection or close it."""
        with self._lock:
            kept = reusable and not self._closed and self._keep(connection)
            self._free += 1
            if self._waiting:
                self._freed.notify()
        if connection is not None and not kept:
            connection.close()

    def _wait(self, deadline: float) -> None:
        self._waiting += 1
        try:
            self._freed.wait(_remaining(deadline))
        finally:
            self._waiting -= 1

    def _keep(self, connection: _Connection | None) -> bool:
        return connection is not None and self.idle.put(connection, monotonic())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections = self.idle.clear()
        for connection in connections:
            connection.close()


class _Stale(Exception):
    """The connection ended before one byte of the answer. Never leaves this module."""


class _Connection:
    """One socket, used by one thread at a time.

    A Python socket with a timeout costs three more system calls a request. So a plain socket blocks
    under the kernel's own timeout, which is coarse and seldom set: when it ends a read early, what
    is left of the time is waited for exactly. TLS keeps the timeout, for it may read to write.
    """

    __slots__ = ("_is_tls", "_poll", "_sock", "_waits", "is_open", "retire_at")

    def __init__(self, sock: socket.socket, retire_at: float) -> None:
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._waits = 0.0  # seconds the kernel lets a read of a plain socket wait
        if not self._is_tls:
            sock.setblocking(True)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.retire_at = retire_at
        self.is_open = True

    def is_quiet(self) -> bool:
        """False: the endpoint hung up while we were idle, or said what would pass for an answer."""
        return not self._poll.poll(0)

    def exchange(self, parts: list[Buffer], deadline: float) -> tuple[WireResponse, bool]:
        """Send the parts, read the answer; and whether the connection may serve again.

        Raises TimeoutError at the deadline, _Stale and RemoteProtocolError.
        """
        parser = ResponseParser()
        sock = self._sock
        try:
            self._send(parts, deadline)
            while True:
                data = self._receive(sock, deadline)
                if not data:
                    raise parser.eof()
                response = parser.feed(data)
                if response is not None:
                    return response, parser.reusable
        except TimeoutError:
            raise
        except (OSError, RemoteProtocolError) as error:
            if not parser.started:
                raise _Stale(f"the endpoint hung up before its answer ({error})") from error
            if isinstance(error, TransportError):
                raise
            raise RemoteProtocolError(f"the connection broke in mid-answer: {error}") from error

    def close(self) -> None:
        self.is_open = False
        _close(self._sock)

    def _receive(self, sock: socket.socket, deadline: float) -> bytes:
        left = deadline - monotonic()
        if left <= 0.0:
            return self._already_here(sock)
        if self._is_tls:
            sock.settimeout(left)
            try:
                return sock.recv(_READ_SIZE)
            except TimeoutError:
                return self._already_here(sock)
        if self._let_wait(left - COARSE):
            with contextlib.suppress(BlockingIOError):
                return sock.recv(_READ_SIZE)
        while self._poll.poll(max(0.0, deadline - monotonic()) * 1000.0):
            with contextlib.suppress(BlockingIOError):  # woken for nothing
                return sock.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        return self._already_here(sock)

    def _already_here(self, sock: socket.socket) -> bytes:
        """What has come by now, though the time is over: the endpoint is not to blame when it is
        this process that stood still. Raises TimeoutError when nothing has; never waits."""
        try:
            if self._is_tls:
                sock.settimeout(0.0)
                return sock.recv(_READ_SIZE)
            return sock.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError from None

    def _let_wait(self, wait: float) -> bool:
        """Whether the kernel ends a read after ``wait`` seconds at the latest, and not at once."""
        if wait < COARSE or sys.platform != "linux":  # elsewhere a timeval is laid out otherwise
            return False
        if not 0.5 * wait <= self._waits <= wait:
            self._waits = 0.75 * wait
            whole = int(self._waits)
            timeval = struct.pack("@ll", whole, int((self._waits - whole) * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        return True

    def _send(self, parts: list[Buffer], deadline: float) -> None:
        try:
            self._send_all(parts, deadline)
        except (BrokenPipeError, ConnectionResetError):
            return  # it may refuse and hang up before it read everything: its answer counts

    def _send_all(self, parts: list[Buffer], deadline: float) -> None:
        sock = self._sock
        if self._is_tls:  # cannot gather
            rest = memoryview(b"".join(parts))
            while rest:
                sock.settimeout(_remaining(deadline))
                rest = rest[sock.send(rest) :]
            return
        sent = _send_some(sock, parts)
        if sent == body_length(parts):
            return
        queue = [memoryview(part).cast("B") for part in parts if len(part)]
        writable = select.poll()
        writable.register(sock, select.POLLOUT)
        while skip(queue, sent):
            if not writable.poll(_remaining(deadline) * 1000.0):
                raise TimeoutError
            sent = _send_some(sock, queue)


def _send_some(sock: socket.socket, parts: Sequence[Buffer]) -> int:
    """How many bytes the kernel took at once; 0 when it has no room."""
    try:
        return sock.sendmsg(parts[:_MAX_PARTS], (), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


def skip(queue: list[memoryview], sent: int) -> bool:
    """Drop the first ``sent`` bytes of the parts; whether any are left."""
    done = 0
    while done < len(queue) and sent >= queue[done].nbytes:
        sent -= queue[done].nbytes
        done += 1
    del queue[:done]
    if sent:
        queue[0] = queue[0][sent:]
    return bool(queue)


def _open_socket(origin: Origin, deadline: float) -> socket.socket:
    if origin.path:
        return _connect_to(socket.AF_UNIX, origin.path, deadline)
    failure: OSError | None = None
    for family, address in addresses(origin.host, origin.port, deadline):
        try:
            sock = _connect_to(family, address, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            failure = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise failure or OSError("the name has no address")


def _connect_to(family: int, address: object, deadline: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_remaining(deadline))
        sock.connect(address)  # type: ignore[arg-type]  # typeshed cannot say which family it is
    except BaseException:
        sock.close()
        raise
    return sock


def _remaining(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError):  # it is gone either way
            sock.close()
