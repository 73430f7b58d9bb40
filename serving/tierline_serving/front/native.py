"""Answers native score calls on the connection itself, without an ASGI task, scope and events.

Only what is plain takes this way: a POST of a frame with a length, small enough to need no budget,
on a connection that answers nothing else just now. Everything else goes through ASGI, and means
the same there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from tierline.deadline import DEADLINE_HEADER
from tierline.wire import ErrorReply
from tierline.wire.errors import http_status
from tierline.wire.frames import encode_error
from tierline.wire.headers import (
    ATTEMPT_HEADER,
    CONTENT_TYPE,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
)
from tierline_serving.front.bodies import HELD_FROM
from tierline_serving.front.exchange import MAX_HEADERS, RawHeaders

if TYPE_CHECKING:
    from tierline_serving.handlers import Answer, FrameCall

SCORE_PATH: Final = "/v1/score"
QUEUE_HEADER: Final = b"x-tierline-queue-ms"  # expected wait of a request arriving now
COMPUTE_HEADER: Final = b"x-tierline-compute-ms"  # what this request's batch took
BUNDLE_HEADER: Final = b"x-tierline-bundle"
REASON_HEADER: Final = b"x-tierline-reason"  # why it was not answered, in one word

_RAW_PATH: Final = SCORE_PATH.encode()
_ID_HEADER: Final = REQUEST_ID_HEADER.encode()
_FRAME: Final = CONTENT_TYPE.encode()
_READ: Final = {
    name.encode(): name
    for name in (DEADLINE_HEADER, ATTEMPT_HEADER, REQUEST_ID_HEADER, TRACEPARENT_HEADER)
}  # the headers a call is read from
# One request line, then name, colon, blank, printable text: no folding, nothing to argue about.
_PLAIN: Final = re.compile(
    rb"POST /v1/score HTTP/1\.1"
    rb"((?:\r\n[A-Za-z0-9-]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)+)\r\n\r\n"
)
_NOT_PLAIN: Final = frozenset(
    (b"connection", b"expect", b"transfer-encoding", b"upgrade", b"trailer", b"te")
)
_LONGEST_HEAD: Final = 8192  # bytes
_DIGITS: Final = 9  # of a length: far more than HELD_FROM
_LEAVE: Final = b"connection: close\r\n"


class NativeCalls(Protocol):
    """Who answers native calls (``Handlers`` does)."""

    @property
    def asks_to_leave(self) -> bool: ...

    def begin_frame(
        self,
        frame: bytes,
        headers: Mapping[str, str],
        arrived_at: float,
        done: Callable[[Answer], None],
    ) -> FrameCall: ...


class Connection(Protocol):
    """What a cycle needs of its connection."""

    transport: asyncio.Transport

    def on_response_complete(self) -> None: ...


class _NobodyWaits:
    """Stands where uvicorn's cycles have an event: nothing waits here."""

    def set(self) -> None:
        """Nothing."""


class NativeCycle:
    """One native call on a connection; the attributes without underscore are uvicorn's."""

    __slots__ = (
        "_arrived_at",
        "_call",
        "_calls",
        "_connection",
        "_headers",
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
        headers: RawHeaders,
        arrived_at: float,
        *,
        keep_alive: bool,
    ) -> None:
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_complete = self.disconnected = False
        self._connection = connection
        self._calls = calls
        self._headers = headers
        self._arrived_at = arrived_at
        self._parts: list[bytes] = []
        self._call: FrameCall | None = None

    def add(self, body: bytes) -> None:
        """A piece of the body came."""
        self._parts.append(body)

    def begin(self) -> None:
        """The body is whole: score it."""
        self.more_body = False
        parts = self._parts
        frame = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        headers = {
            _READ[name]: text.decode("latin-1") for name, text in self._headers if name in _READ
        }
        call = self._calls.begin_frame(frame, headers, self._arrived_at, self._answer)
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
        return self.more_body and bool(self._parts)

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
        transport.write(response)
        if not self.keep_alive:
            transport.close()
        self._connection.on_response_complete()


def read_whole(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
    """Headers and body when ``data`` is one whole native call in the plainest form, as our own
    client sends it; None for everything else, right or wrong, which the full parser then reads."""
    found = _PLAIN.match(data)
    if found is None or found.end() > _LONGEST_HEAD:
        return None
    length = -1
    headers = []
    for line in found[1][2:].split(b"\r\n"):
        name, _, value = line.partition(b": ")
        name = name.lower()
        if name == b"content-length":
            if length >= 0 or not value.isdigit() or len(value) > _DIGITS:
                return None
            length = int(value)
        elif name in _NOT_PLAIN:
            return None
        headers.append((name, value))
    if length != len(data) - found.end() or length > HELD_FROM or len(headers) > MAX_HEADERS:
        return None
    return headers, data[found.end() :]


@cache
def _head(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (status, phrase, _FRAME)


def takes(method: bytes, url: bytes, headers: RawHeaders) -> bool:
    """Whether a request with this head may be answered natively."""
    if url != _RAW_PATH or method != b"POST" or len(headers) > MAX_HEADERS:
        return False
    length = b""
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif name in (b"expect", b"transfer-encoding", b"upgrade"):
            return False
    return length.isdigit() and int(length) <= HELD_FROM


def response_bytes(answer: Answer, *, keep_alive: bool) -> bytes:
    """The whole HTTP answer."""
    status = 200 if answer.reply is not None else http_status(answer.code)
    lines = [_head(status)]
    reply = answer.reply
    if reply is not None:
        lines.append(
            b"x-tierline-queue-ms: %.3f\r\nx-tierline-compute-ms: %.3f\r\nx-tierline-bundle: %b\r\n"
            % (answer.expected_wait * 1e3, reply.timings["compute"] * 1e3, reply.bundle.encode())
        )
    elif answer.reason is not None:
        lines.append(b"x-tierline-reason: %b\r\n" % answer.reason.encode())
        if status == 429:
            lines.append(b"x-tierline-queue-ms: %.3f\r\n" % (answer.expected_wait * 1e3))
    if answer.request_id is not None:
        lines.append(b"%b: %b\r\n" % (_ID_HEADER, answer.request_id.encode()))
    if answer.retry_after is not None:
        lines.append(b"retry-after: %d\r\n" % max(1, round(answer.retry_after)))
    if not keep_alive:
        lines.append(_LEAVE)
    size = sum(map(len, answer.frame))
    return b"".join((*lines, b"content-length: %d\r\n\r\n" % size, *answer.frame))
