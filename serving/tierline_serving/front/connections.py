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
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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

    def __init__(self, *args: Any, **named: Any) -> None:  # Any: uvicorn's own arguments
        super().__init__(*args, **named)
        self._patience: asyncio.TimerHandle | None = None
        self._deafness: asyncio.TimerHandle | None = None
        self._awaits_body = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._make_room()
        self._wait(self.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_minding()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_minding()
        self._deafness = self.loop.call_later(self.limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_minding()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            self._stop_waiting()
        elif self.scope is None or "method" not in self.scope:  # the head is not whole yet
            self._head_came_partly(len(data))
        elif self.cycle.more_body:
            self._body_came_partly()
        elif self._patience is not None:
            self._stop_waiting()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.write_timeout, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.is_closing():
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
            self._wait(self.limits.body_timeout)
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
