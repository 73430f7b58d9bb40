"""Reads the heads of native calls: in one expression where they are plain, as nearly all are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from tierline.deadline import DEADLINE_HEADER
from tierline.wire.headers import (
    ATTEMPT_HEADER,
    CRITICALITY_HEADER,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
)
from tierline_serving.front.bodies import HELD_FROM
from tierline_serving.front.exchange import MAX_HEADERS, RawHeaders
from tierline_serving.said import Said

SCORE_PATH: Final = "/v1/score"

_RAW_PATH: Final = SCORE_PATH.encode()
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
# One request line, then name, colon, blanks, printable text: no folding, nothing to argue about.
_PLAIN: Final = re.compile(
    rb"POST /v1/score HTTP/1\.1"
    rb"((?:\r\n[A-Za-z0-9-]+: {1,8}[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)+)\r\n\r\n"
)
# The same as our own client writes it: `_channels` and `_transports.http1` in the SDK.
_OWN: Final = re.compile(
    rb"POST /v1/score HTTP/1\.1\r\nhost: [\x21-\x7e]+\r\n"
    rb"content-type: application/x-tierline\r\n"
    rb"(?:authorization: ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)\r\n)?"
    rb"x-tierline-deadline-ms: ([0-9]{1,9}(?:\.[0-9]{1,9})?)\r\n"
    rb"x-tierline-attempt: [1-9][0-9]{0,2}\r\n"
    rb"x-request-id: ([\x21-\x7e]{1,128})\r\n"
    rb"content-length: {1,8}([0-9]{1,9})\r\n\r\n"
)
_NOT_PLAIN: Final = frozenset(
    (b"connection", b"expect", b"transfer-encoding", b"upgrade", b"trailer", b"te")
)
_LONGEST_HEAD: Final = 8192  # bytes
_DIGITS: Final = 9  # of a length: far more than HELD_FROM


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
    pairs = [line.partition(b": ") for line in lines]
    headers = {name.lower(): value.lstrip(b" ") for name, _, value in pairs}
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

    __slots__ = ("_remaining_ms", "_request_id", "authorization", "end", "length")

    def __init__(
        self,
        remaining_ms: float,
        request_id: str,
        authorization: bytes | None,
        length: int,
        end: int,
    ) -> None:
        self._remaining_ms = remaining_ms
        self._request_id = request_id
        self.authorization = authorization
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
    authorization, remaining, request_id, digits = found.groups()
    end, length = found.end(), int(digits)
    if length != len(data) - end or length > HELD_FROM or end > _LONGEST_HEAD:
        return None
    return OwnHead(float(remaining), request_id.decode(), authorization, length, end)


def call_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Those a call is read from, as text."""
    return {name: headers[raw].decode("latin-1") for raw, name in _READ.items() if raw in headers}


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
