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
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tierline_serving.front.heads import call_headers, takes
from tierline_serving.front.native import (
    NativeCalls,
    NativeCycle,
    arrived,
    begin_whole,
    completed,
)
from tierline_serving.settings import ServerSettings

if TYPE_CHECKING:
    from tierline_serving.access.gate import Gate

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
        self.patience: asyncio.TimerHandle | None = None
        self._deafness: asyncio.TimerHandle | None = None
        self._awaits_body = False
        self._head_bytes = 0
        self._in_head = True
        self._is_at_rest = True  # between messages: the parser has nothing begun
        self.idle_from: float | None = None
        self._native: NativeCalls | None = getattr(self.app, "native", None)
        self.gate: Gate | None = getattr(self.app, "gate", None)
        self.caller = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self.caller = self.client[0]
        if len(self.connections) > self.limits.max_connections:
            self._make_room()
        self._wait(self.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
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
        self.idle_from = None
        if self._is_at_rest and self._native is not None and begin_whole(self, self._native, data):
            return
        super().data_received(data)
        if self.transport.is_closing():
            self.stop_waiting()
        elif self._in_head:
            self._head_came_partly(len(data))
        elif self.cycle.more_body:
            self._body_came_partly()
        elif self.patience is not None:
            self.stop_waiting()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

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
            or self.gate is not None
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
        named, arrived_at = dict(self.headers), arrived(self, calls)
        met = calls.meet(call_headers(named), int(named[b"content-length"]), arrived_at)
        self.cycle = NativeCycle(self, calls, met, arrived_at, keep_alive=keeps, caller=self.caller)

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
        if self.transport.is_closing():
            self.server_state.total_requests += 1
            if self.transport.get_write_buffer_size():
                self.loop.call_later(self.limits.write_timeout, self.transport.abort)
            return
        if self.pipeline:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
            return
        completed(self)

    def _unset_keepalive_if_required(self) -> None:
        """The timer stays: see on_response_complete."""

    def wait_idle(self) -> None:
        """Hang up when nothing has come for the time that an idle connection is kept."""
        self._look_again(self.timeout_keep_alive)

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self.idle_from is None:
            return
        left = self.idle_from + self.timeout_keep_alive - self.loop.time()
        if left > 0.0:
            self._look_again(left)
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
        elif self.patience is None:
            self._wait(self.limits.head_timeout)

    def _body_came_partly(self) -> None:
        if self.patience is None or not self._awaits_body:
            native = type(self.cycle) is NativeCycle  # else the app waits, and says so itself
            self._wait(self.limits.head_timeout if native else self.limits.body_timeout)
            self._awaits_body = True

    def _wait(self, seconds: float) -> None:
        if self.patience is not None:
            self.patience.cancel()
        self.patience = self.loop.call_later(seconds, self._lose_patience)

    def stop_waiting(self) -> None:
        """What was waited for has come, or nobody waits any more."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None
        self._awaits_body = False
        self._head_bytes = 0

    def _stop_minding(self) -> None:
        if self._deafness is not None:
            self._deafness.cancel()
            self._deafness = None

    def _lose_patience(self) -> None:
        self.patience = None
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
