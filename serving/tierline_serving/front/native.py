"""Answers native score calls on the connection itself, without an ASGI task, scope and events.

Only what is plain takes this way: a POST of a frame with a length, small enough to need no budget,
on a connection that answers nothing else just now. Everything else goes through ASGI, and means
the same there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from tierline.wire import ErrorReply
from tierline.wire.errors import http_status
from tierline.wire.frames import encode_error
from tierline.wire.headers import (
    BODY_ALIGNMENT,
    CONTENT_TYPE,
    REQUEST_ID_HEADER,
)
from tierline_serving.answers import OVERLOADED, Answer
from tierline_serving.front.exchange import Refused
from tierline_serving.front.heads import (
    SCORE_PATH,
    Head,
    OwnHead,
    call_headers,
    read_head,
    read_own,
)
from tierline_serving.front.turns import Turns
from tierline_serving.outbox import Outbox
from tierline_serving.said import Said

if TYPE_CHECKING:
    from tierline_serving.access.gate import Gate
    from tierline_serving.handlers import FrameCall

QUEUE_HEADER: Final = b"x-tierline-queue-ms"  # expected wait of a request arriving now
COMPUTE_HEADER: Final = b"x-tierline-compute-ms"  # what this request's batch took
BUNDLE_HEADER: Final = b"x-tierline-bundle"
REASON_HEADER: Final = b"x-tierline-reason"  # why it was not answered, in one word

_ID_HEADER: Final = REQUEST_ID_HEADER.encode()
_FRAME: Final = CONTENT_TYPE.encode()
_LEAVE: Final = b"connection: close\r\n"


class NativeCalls(Protocol):
    """Who answers native calls (``Handlers`` does)."""

    turns: Turns
    outbox: Outbox

    @property
    def asks_to_leave(self) -> bool: ...

    def meet(self, headers: Mapping[str, str], size: int, arrived_at: float) -> Said | Answer: ...

    def welcome(self, said: Said, size: int, arrived_at: float) -> Said | Answer: ...

    def begin_frame(
        self,
        frame: bytes,
        said: Said,
        arrived_at: float,
        done: Callable[[Answer], None],
        caller: str = "",
        start: int = 0,
    ) -> FrameCall: ...


class Connection(Protocol):
    """What a cycle needs of its connection (``GuardedProtocol`` is one)."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: Any  # uvicorn's FlowControl
    server_state: Any  # uvicorn's ServerState
    pipeline: Any  # uvicorn's queue of requests sent ahead of their answers
    cycle: Any  # uvicorn's cycle or ours: the call answered last, or being answered
    caller: str  # its address: whose calls these are where there are no keys
    gate: Gate | None
    patience: asyncio.TimerHandle | None  # runs until something is whole
    idle_from: float | None
    timeout_keep_alive_task: asyncio.TimerHandle | None

    def on_response_complete(self) -> None: ...

    def stop_waiting(self) -> None: ...

    def wait_idle(self) -> None: ...


class _NobodyWaits:
    """Stands where uvicorn's cycles have an event: nothing waits here."""

    def set(self) -> None:
        """Nothing."""


class NativeCycle:
    """One native call on a connection; the attributes without underscore are uvicorn's."""

    __slots__ = (
        "_arrived_at",
        "_call",
        "_caller",
        "_calls",
        "_connection",
        "_has_part",
        "_met",
        "_parts",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
    )
    message_event = _NobodyWaits()

    def __init__(
        self,
        connection: Connection,
        calls: NativeCalls,
        met: Said | Answer,
        arrived_at: float,
        *,
        keep_alive: bool,
        caller: str,
    ) -> None:
        """``met`` is what ``calls`` made of the head: an answer is sent when the body has come.
        ``caller`` is whom a batch is shared with evenly."""
        self.keep_alive = keep_alive
        self._caller = caller
        self.more_body = True
        self.response_complete = self.disconnected = False
        self._connection = connection
        self._calls = calls
        self._met = met
        self._arrived_at = arrived_at
        self._parts: list[bytes] = []
        self._has_part = False
        self._call: FrameCall | None = None

    def add(self, body: bytes) -> None:
        """A piece of the body came; nobody reads that of a call which is answered already."""
        self._has_part = True
        if type(self._met) is Said:
            self._parts.append(body)

    def begin(self) -> None:
        """The body is whole: score it."""
        parts, self._parts = self._parts, []
        self.begin_with(parts[0] if len(parts) == 1 else b"".join(parts))

    def begin_with(self, data: bytes, start: int = 0) -> None:
        """Score the body that begins at ``start`` in ``data``."""
        self.more_body = False
        met = self._met
        if type(met) is Answer:
            self._answer(met)
            return
        assert type(met) is Said
        call = self._calls.begin_frame(
            data, met, self._arrived_at, self._answer, self._caller, start
        )
        if not self.response_complete:
            self._call = call

    def hang_up(self) -> None:
        """The caller has gone."""
        self.disconnected = True
        if self._call is not None:
            self._call.leave()
            self._call = None

    @property
    def has_part(self) -> bool:
        """Whether some of the body came, and not all of it."""
        return self.more_body and self._has_part

    def refuse_slow(self, seconds: float) -> None:
        """The body did not come in so many seconds: say so, and hang up."""
        self.more_body = self.keep_alive = False
        message = f"the body did not arrive within {seconds:g} s"
        frame = b"".join(encode_error(ErrorReply(code="bad_request", message=message)))
        length = b"content-length: %d\r\n\r\n" % len(frame)
        self._write(b"".join((_head(408), _LEAVE, length, frame)))

    def _answer(self, answer: Answer) -> None:
        self._call = None
        if self._calls.asks_to_leave:
            self.keep_alive = False
        self._write(response_bytes(answer, keep_alive=self.keep_alive))

    def _write(self, response: bytes) -> None:
        transport = self._connection.transport
        self.response_complete = True
        if self.disconnected or transport.is_closing():
            return
        if self.keep_alive and not self._connection.pipeline:
            self._calls.outbox.write(transport, response)
            completed(self._connection)
            return
        transport.write(response)
        if not self.keep_alive:
            transport.close()
        self._connection.on_response_complete()


def begin_whole(connection: Connection, calls: NativeCalls, data: bytes) -> bool:
    """Begin the native call that ``data`` is, if it is one and no more, on a connection between
    two messages."""
    before = connection.cycle
    if not (before is None or before.response_complete) or connection.flow.write_paused:
        return False
    own = read_own(data)
    head = None if own is not None else read_head(data)
    if own is None and head is None:
        return False
    caller = _let_in(connection, own, head)
    if caller is None:
        return False
    if connection.patience is not None:
        connection.stop_waiting()
    arrived_at = arrived(connection, calls)
    if own is not None:
        met = calls.welcome(own.said(arrived_at), own.length, arrived_at)
        end = own.end
    else:
        assert head is not None
        met = calls.meet(call_headers(head.headers), head.length, arrived_at)
        end = head.end
    if type(met) is Answer and not calls.asks_to_leave:
        # Turned away on account of its head: the body is dropped as it came.
        connection.transport.write(response_bytes(met, keep_alive=True))
        connection.on_response_complete()
        return True
    cycle = NativeCycle(connection, calls, met, arrived_at, keep_alive=True, caller=caller)
    connection.cycle = cycle
    # Our own client fills its heads up, so that the tensors behind them lie where they may be used
    # as they are; others' are copied to where they may.
    if end % BODY_ALIGNMENT:
        cycle.begin_with(data[end:])
    else:
        cycle.begin_with(data, end)
    return True


def _let_in(connection: Connection, own: OwnHead | None, head: Head | None) -> str | None:
    """Who calls: a key's id where keys are asked for, else an address. None for who is not let
    in: ASGI looks again, and says why."""
    gate = connection.gate
    if gate is None:
        return connection.caller
    if own is None:
        assert head is not None
        shown = head.headers.get(b"authorization")
    else:
        shown = own.authorization
    if shown is None:
        return None
    try:
        known = gate.admit(SCORE_PATH, SCORE_PATH, ((b"authorization", shown),))
    except Refused:
        return None
    return None if known is None else known.key_id


def arrived(connection: Connection, calls: NativeCalls) -> float:
    """The earliest instant what is being read can have come."""
    turns = calls.turns
    if turns.opens(monotonic()):
        connection.loop.call_soon(_close_turn, turns)
    return turns.since


def completed(connection: Connection) -> None:
    """A call was answered on a connection that stays open and has no other waiting."""
    connection.server_state.total_requests += 1
    if connection.flow.read_paused:
        connection.flow.resume_reading()
    # One timer a connection, looked at when it rings: not one made and cancelled a request.
    connection.idle_from = connection.loop.time()
    if connection.timeout_keep_alive_task is None:
        connection.wait_idle()


def _close_turn(turns: Turns) -> None:
    turns.over(monotonic())


@cache
def _head(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (status, phrase, _FRAME)


def response_bytes(answer: Answer, *, keep_alive: bool) -> bytes:
    """The whole HTTP answer."""
    request_id, bundle = answer.request_id, answer.bundle
    named = b"" if request_id is None else b"%b: %b\r\n" % (_ID_HEADER, request_id.encode())
    leave = b"" if keep_alive else _LEAVE
    frame = b"".join(answer.frame)
    if bundle is None:
        reason, wait = answer.reason, answer.expected_wait
        before, after = _refusal(answer.code, reason, answer.retry_after, frame)
        if answer.code == OVERLOADED and reason is not None:
            named = b"x-tierline-queue-ms: %.3f\r\n%b" % (wait * 1e3, named)
        return b"".join((before, named, leave, after))
    head = _scored(answer.expected_wait, answer.compute, bundle, len(frame))
    return b"".join((head, named, leave, b"\r\n", frame))


@lru_cache(64)
def _scored(wait: float, compute: float, bundle: str, size: int) -> bytes:
    """The lines that all answers of a batch share, where their frames are equally long."""
    return b"%bx-tierline-queue-ms: %.3f\r\nx-tierline-compute-ms: %.3f\r\n%b: %b\r\n%b" % (
        _head(200),
        wait * 1e3,
        compute * 1e3,
        BUNDLE_HEADER,
        bundle.encode(),
        b"content-length: %d\r\n" % size,
    )


@lru_cache(4096)
def _refusal(
    code: str, reason: str | None, again: float | None, frame: bytes
) -> tuple[bytes, bytes]:
    """An error's answer before and after the lines that are this call's own."""
    lines = [_head(http_status(code))]
    if reason is not None:
        lines.append(b"%b: %b\r\n" % (REASON_HEADER, reason.encode()))
    if again is not None:
        lines.append(b"retry-after: %d\r\n" % max(1, round(again)))
    return b"".join(lines), b"content-length: %d\r\n\r\n%b" % (len(frame), frame)
