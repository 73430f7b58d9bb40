"""Answers native score calls on the connection itself, without an ASGI task, scope and events.

Only what is plain takes this way: a POST of a frame with a length, small enough to need no budget,
on a connection that answers nothing else just now. Everything else goes through ASGI, and means
the same there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tierline.deadline import DEADLINE_HEADER
from tierline.wire import ErrorReply
from tierline.wire.errors import http_status
from tierline.wire.frames import encode_error
from tierline.wire.headers import (
    ATTEMPT_HEADER,
    CONTENT_TYPE,
    CRITICALITY_HEADER,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
)
from tierline_serving.answers import OVERLOADED, Answer
from tierline_serving.front.bodies import HELD_FROM
from tierline_serving.front.exchange import MAX_HEADERS, RawHeaders
from tierline_serving.front.turns import Turns
from tierline_serving.outbox import Outbox
from tierline_serving.said import Said

if TYPE_CHECKING:
    from tierline_serving.handlers import FrameCall

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
    for name in (
        DEADLINE_HEADER,
        ATTEMPT_HEADER,
        REQUEST_ID_HEADER,
        TRACEPARENT_HEADER,
        CRITICALITY_HEADER,
    )
}  # the headers a call is read from
# One request line, then name, colon, blank, printable text: no folding, nothing to argue about.
_PLAIN: Final = re.compile(
    rb"POST /v1/score HTTP/1\.1"
    rb"((?:\r\n[A-Za-z0-9-]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)+)\r\n\r\n"
)
# The same as our own client writes it: `_channels` and `_transports.http1` in the SDK.
_OWN: Final = re.compile(
    rb"POST /v1/score HTTP/1\.1\r\nhost: [\x21-\x7e]+\r\n"
    rb"content-type: application/x-tierline\r\n"
    rb"x-tierline-deadline-ms: ([0-9]{1,9}(?:\.[0-9]{1,9})?)\r\n"
    rb"x-tierline-attempt: [1-9][0-9]{0,2}\r\n"
    rb"x-request-id: ([\x21-\x7e]{1,128})\r\n"
    rb"content-length: ([0-9]{1,9})\r\n\r\n"
)
_NOT_PLAIN: Final = frozenset(
    (b"connection", b"expect", b"transfer-encoding", b"upgrade", b"trailer", b"te")
)
_LONGEST_HEAD: Final = 8192  # bytes
_DIGITS: Final = 9  # of a length: far more than HELD_FROM
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
    ) -> FrameCall: ...


class Connection(Protocol):
    """What a cycle needs of its connection."""

    transport: asyncio.Transport
    caller: str  # whose calls these are, as far as sharing a batch evenly goes

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
    ) -> None:
        """``met`` is what ``calls`` made of the head: an answer is sent when the body has come."""
        self.keep_alive = keep_alive
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
        self.more_body = False
        met = self._met
        if type(met) is Answer:
            self._answer(met)
            return
        assert type(met) is Said
        parts = self._parts
        frame = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        caller = self._connection.caller
        call = self._calls.begin_frame(frame, met, self._arrived_at, self._answer, caller)
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
        if self.keep_alive:
            self._calls.outbox.write(transport, response)
        else:
            transport.write(response)
            transport.close()
        self._connection.on_response_complete()


class Head(NamedTuple):
    """A plain head: its headers (names in lower case), the body's length and where it begins."""

    headers: dict[bytes, bytes]
    length: int
    end: int


def read_head(data: bytes) -> Head | None:
    """The head when ``data`` is one whole native call in the plainest form, as our own client
    sends it; None for everything else, right or wrong, which the full parser then reads."""
    found = _PLAIN.match(data)
    if found is None:
        return None
    end = found.end()
    lines = found[1][2:].split(b"\r\n")
    headers = {name.lower(): value for name, _, value in [line.partition(b": ") for line in lines]}
    text = headers.get(b"content-length", b"")
    if (
        not text.isdigit()
        or len(text) > _DIGITS
        or len(headers) != len(lines)  # a name said twice
        or not _NOT_PLAIN.isdisjoint(headers)
        or end > _LONGEST_HEAD
        or len(headers) > MAX_HEADERS
    ):
        return None
    length = int(text)
    if length != len(data) - end or length > HELD_FROM:
        return None
    return Head(headers, length, end)


class OwnHead:
    """A head as our own client writes it, in that order: what it says, and where the body is."""

    __slots__ = ("_remaining_ms", "_request_id", "end", "length")

    def __init__(self, remaining_ms: float, request_id: str, length: int, end: int) -> None:
        self._remaining_ms = remaining_ms
        self._request_id = request_id
        self.length = length
        self.end = end

    def said(self, arrived_at: float) -> Said:
        """What ``read_headers`` makes of it."""
        return Said(arrived_at + self._remaining_ms / 1000.0, self._request_id)


def read_own(data: bytes) -> OwnHead | None:
    """The head when ``data`` is one whole call just as our own client sends it, read by one
    expression; None for all else, right or wrong, which ``read_head`` then looks at."""
    found = _OWN.match(data)
    if found is None:
        return None
    remaining, request_id, digits = found.groups()
    end, length = found.end(), int(digits)
    if length != len(data) - end or length > HELD_FROM or end > _LONGEST_HEAD:
        return None
    return OwnHead(float(remaining), request_id.decode(), length, end)


def call_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Those a call is read from, as text."""
    return {name: headers[raw].decode("latin-1") for raw, name in _READ.items() if raw in headers}


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
