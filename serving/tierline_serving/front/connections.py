"""Connections that nobody can hold open for nothing: slow, idle, flooding or deaf callers go.

uvicorn times out idle connections between requests only. Here a request's head and body must also
come in time, heads and pipelines are bounded, an answer nobody reads is dropped, and when all
places are taken an idle connection gives way to a new one. A request that arrives in one read, as
nearly all do, sets no timer.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tierline_serving.answers import Answer
from tierline_serving.front.native import (
    Head,
    NativeCalls,
    NativeCycle,
    OwnHead,
    call_headers,
    read_head,
    read_own,
    response_bytes,
    takes,
)
from tierline_serving.front.turns import Turns
from tierline_serving.settings import ServerSettings

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_PIPELINED: Final = 32  # requests sent ahead of their answers
GRACE: Final = 1.0  # seconds beyond the app's own limit on a body: the app answers, we hang up
SPARE_FILES: Final = 64  # descriptors kept for models, logs and listeners
_LOOK_AT: Final = 64  # connections looked at for an idle one

_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How long a caller may take (seconds) and how many connections there may be."""

    head_timeout: float
    body_timeout: float
    write_timeout: float
    max_connections: int

    @classmethod
    def of(cls, settings: ServerSettings) -> ConnectionLimits:
        """The settings' limits, within the descriptors this process may open."""
        return cls(
            head_timeout=settings.read_timeout,
            body_timeout=settings.read_timeout + GRACE,
            write_timeout=settings.write_timeout,
            max_connections=min(settings.max_connections, _free_descriptors(settings)),
        )


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the limits above; ``limits`` is set on a subclass."""

    limits: ConnectionLimits
    cycle: RequestResponseCycle | NativeCycle  # type: ignore[assignment]

    def __init__(self, *args: Any, **named: Any) -> None:  # Any: uvicorn's own arguments
        super().__init__(*args, **named)
        self._patience: asyncio.TimerHandle | None = None
        self._deafness: asyncio.TimerHandle | None = None
        self._awaits_body = False
        self._head_bytes = 0
        self._in_head = True
        self._is_at_rest = True  # between messages: the parser has nothing begun
        self._idle_from: float | None = None
        self._native: NativeCalls | None = getattr(self.app, "native", None)
        self.caller = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self.caller = self.client[0]
        if len(self.connections) > self.limits.max_connections:
            self._make_room()
        self._wait(self.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_minding()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if type(self.cycle) is NativeCycle and not self.cycle.response_complete:
            self.cycle.hang_up()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_minding()
        self._deafness = self.loop.call_later(self.limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_minding()

    def data_received(self, data: bytes) -> None:
        self._idle_from = None
        if self._is_at_rest and self._native is not None and self._answers_whole(data):
            return
        super().data_received(data)
        if self.transport.is_closing():
            self._stop_waiting()
        elif self._in_head:
            self._head_came_partly(len(data))
        elif self.cycle.more_body:
            self._body_came_partly()
        elif self._patience is not None:
            self._stop_waiting()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def _answers_whole(self, data: bytes) -> bool:
        """Begin the native call that ``data`` is, if it is one and no more."""
        before = self.cycle
        if not (before is None or before.response_complete) or self.flow.write_paused:
            return False
        calls, own = self._native, read_own(data)
        head = own or read_head(data)
        if head is None or calls is None:
            return False
        if self._patience is not None:
            self._stop_waiting()
        arrived_at = self._arrived(calls)
        if type(head) is OwnHead:
            met = calls.welcome(head.said(arrived_at), head.length, arrived_at)
        else:
            assert type(head) is Head
            met = calls.meet(call_headers(head.headers), head.length, arrived_at)
        if type(met) is Answer and not calls.asks_to_leave:
            # Turned away on account of its head: the body is dropped as it came.
            self.transport.write(response_bytes(met, keep_alive=True))
            self.on_response_complete()
            return True
        cycle = NativeCycle(self, calls, met, arrived_at, keep_alive=True)
        self.cycle = cycle
        cycle.add(data[head.end :])
        cycle.begin()
        return True

    def _arrived(self, calls: NativeCalls) -> float:
        """The earliest instant what is being read can have come."""
        turns = calls.turns
        if turns.opens(monotonic()):
            self.loop.call_soon(_close_turn, turns)
        return turns.since

    def on_message_begin(self) -> None:
        self._is_at_rest = False
        # No scope yet: native calls need none, and it costs more than reading their headers.
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        calls, before = self._native, self.cycle
        if (
            calls is None
            or not (before is None or before.response_complete)
            or self.flow.write_paused
            or not takes(self.parser.get_method(), self.url, self.headers)
        ):
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()  # makes the scope
            self.url, self.expect_100_continue = url, expects
            self.headers += headers  # the scope holds this very list
            super().on_headers_complete()
            return
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        named, arrived_at = dict(self.headers), self._arrived(calls)
        met = calls.meet(call_headers(named), int(named[b"content-length"]), arrived_at)
        self.cycle = NativeCycle(self, calls, met, arrived_at, keep_alive=keeps)

    def on_body(self, body: bytes) -> None:
        if type(self.cycle) is NativeCycle:
            self.cycle.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_at_rest = True
        if type(self.cycle) is NativeCycle:
            self.cycle.begin()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self.loop.call_later(self.limits.write_timeout, self.transport.abort)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        # One timer a connection, looked at when it rings: not one made and cancelled a request.
        self._idle_from = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_idle(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """The timer stays: see on_response_complete."""

    def _wait_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._idle_from is None:
            return
        left = self._idle_from + self.timeout_keep_alive - self.loop.time()
        if left > 0.0:
            self._wait_idle(left)
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():  # closing waits for a caller who does not read
            self.loop.call_later(self.limits.write_timeout, self.transport.abort)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _head_came_partly(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._hang_up(_TOO_LONG)
        elif self._patience is None:
            self._wait(self.limits.head_timeout)

    def _body_came_partly(self) -> None:
        if self._patience is None or not self._awaits_body:
            native = type(self.cycle) is NativeCycle  # else the app waits, and says so itself
            self._wait(self.limits.head_timeout if native else self.limits.body_timeout)
            self._awaits_body = True

    def _wait(self, seconds: float) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._awaits_body = False
        self._head_bytes = 0

    def _stop_minding(self) -> None:
        if self._deafness is not None:
            self._deafness.cancel()
            self._deafness = None

    def _lose_patience(self) -> None:
        self._patience = None
        if type(self.cycle) is NativeCycle and self.cycle.has_part:
            self.cycle.refuse_slow(self.limits.head_timeout)
            return
        self._hang_up(_TOO_SLOW if self._head_bytes else b"")

    def _hang_up(self, last_words: bytes) -> None:
        """Close for good; a request being answered gets no words in between."""
        if last_words and self.is_idle and not self.transport.get_write_buffer_size():
            self.transport.write(last_words)
            self.transport.close()
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        """Close an idle connection for the sake of this one, or this one when none is idle."""
        others = islice((each for each in self.connections if each is not self), _LOOK_AT)
        idle = [each for each in others if isinstance(each, GuardedProtocol) and each.is_idle]
        # Whoever never asked anything goes first.
        victim = min(idle, key=lambda each: each.cycle is not None, default=self)
        self.connections.discard(victim)
        victim.transport.abort()


def _close_turn(turns: Turns) -> None:
    turns.over(monotonic())


def guarded_protocol(settings: ServerSettings) -> type[GuardedProtocol]:
    """The protocol class with these settings' limits, as uvicorn takes it."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": ConnectionLimits.of(settings)})


def _free_descriptors(settings: ServerSettings) -> int:
    """How many connections this process may open; raises its soft limit where it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        settings.max_connections if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)
    )
