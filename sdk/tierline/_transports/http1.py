"""HTTP/1.1 in memory: a request's head as bytes, and bytes as a whole response. Does no I/O.

Strict on purpose: where two readers could disagree about where an answer ends (two lengths, folded
headers, bare line feeds, no length at all) the answer is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from tierline._exceptions import LocalProtocolError, RemoteProtocolError
from tierline._transports.base import WireRequest, WireResponse
from tierline.wire.headers import BODY_ALIGNMENT

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 32 * 1024 * 1024  # twice the largest frame
_MAX_INTERIM: Final = 16  # 1xx answers skipped before the real one
_MAX_CHUNK_LINE: Final = 256
_MAX_KNOWN: Final = 1024  # characters of a head that is remembered

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(_TOKEN)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH = re.compile(r"/[\x21-\x7e]*")
_FIELD = re.compile(rf"^({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n", re.MULTILINE)
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,12}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_START = b"HTTP/1."
_CONTENT_LENGTH = "content-length: "
_OURS = frozenset(("host", "content-length", "transfer-encoding"))


def field_lines(headers: Sequence[tuple[str, str]]) -> str:
    """Header lines, ready for a head. Raises LocalProtocolError for what must not be sent."""
    # One look at all values costs a fraction of one at each; names repeat from call to call.
    if not _VALUE.fullmatch("".join([value for _, value in headers])):
        wrong = next(name for name, value in headers if not _VALUE.fullmatch(value))
        raise LocalProtocolError(f"the value of header {wrong!r} has characters not allowed")
    for name, _ in headers:
        if not _may_be_set(name):
            raise LocalProtocolError(f"{name!r} is no header a caller may set")
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


@lru_cache(maxsize=256)
def _may_be_set(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.lower() not in _OURS


def request_head(request: WireRequest, standing: str) -> bytes:
    """The head of ``request``; ``standing`` are the lines every request to this origin has."""
    if request.method not in ("GET", "POST"):
        raise LocalProtocolError(f"the method is GET or POST, not {request.method!r}")
    if not _PATH.fullmatch(request.path):
        raise LocalProtocolError("the path must start with / and be printable ASCII, no blanks")
    lines = field_lines(request.headers)
    head = f"{request.method} {request.path} HTTP/1.1\r\n{standing}{lines}"
    if request.body or request.method == "POST":
        # Blanks before a value mean nothing (RFC 9112, 5), and with the right number of them the
        # body begins where a reader of head and body together finds its tensors aligned.
        length = body_length(request.body)
        blanks = " " * (-(len(head) + len(f"{_CONTENT_LENGTH}{length}\r\n\r\n")) % BODY_ALIGNMENT)
        head = f"{head}{_CONTENT_LENGTH}{blanks}{length}\r\n"
    return f"{head}\r\n".encode("latin-1")


def body_length(parts: Sequence[bytes | bytearray | memoryview]) -> int:
    """How many bytes the parts of a body have together."""
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


class ResponseParser:
    """Reads one response: feed it what arrives, until it hands the answer back.

    ``started``: a byte of the answer came. ``reusable``: the connection may carry another request.
    """

    __slots__ = ("_chunk", "_content", "_head", "_interim", "_pending", "_scanned",
                 "reusable", "started")  # fmt: skip

    def __init__(self) -> None:
        self.started = False
        self.reusable = False
        self._pending = bytearray()
        self._scanned = 0
        self._interim = 0
        self._head: Head | None = None
        self._content = bytearray()  # of a chunked body
        self._chunk: int | None = None  # bytes of the chunk being read; 0: reading trailers

    def feed(self, data: bytes) -> WireResponse | None:
        """Take bytes; the response once it is whole, else None. Raises RemoteProtocolError."""
        if not self.started:
            self.started = len(data) > 0
            response = self._feed_at_once(data)
            if response is not None:
                return response
        self._pending += data
        while self._head is None:
            head = self._read_head()
            if head is None:
                return None
            if head.status >= 200:
                self._head = head
                break
            self._interim += 1
            if head.status == 101 or self._interim > _MAX_INTERIM:
                raise RemoteProtocolError(f"an unasked-for interim answer {head.status}")
        body = self._read_chunks() if self._head.length is None else self._read_length()
        if body is None:
            return None
        self.reusable = self._head.keep_alive and not self._pending
        return WireResponse(status=self._head.status, headers=self._head.headers, body=body)

    def eof(self) -> RemoteProtocolError:
        """What it means that the connection ended here, before the answer was whole."""
        where = "before its answer"
        if self.started:
            where = "inside the head" if self._head is None else "inside the body"
        return RemoteProtocolError(f"the endpoint hung up {where}")

    def _feed_at_once(self, data: bytes) -> WireResponse | None:
        """The answer when it is whole in its first bytes, as most are; else None."""
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0 or not data.startswith(_START):
            return None
        head = parse_head(data[: end + 2].decode("latin-1"))
        if head.status < 200 or head.length != len(data) - end - 4:
            return None
        self.reusable = head.keep_alive
        # A bytes object of its own: its memory is aligned, so the tensors inside it are too.
        return WireResponse(head.status, head.headers, data[end + 4 :])

    def _read_head(self) -> Head | None:
        pending = self._pending
        end = pending.find(b"\r\n\r\n", self._scanned)
        if not pending.startswith(_START[: len(pending)]):
            raise RemoteProtocolError("the answer is not HTTP/1.1")
        if end > MAX_HEAD or (end < 0 and len(pending) > MAX_HEAD):
            raise RemoteProtocolError(f"the answer's head is over {MAX_HEAD} bytes")
        if end < 0:
            self._scanned = max(0, len(pending) - 3)
            return None
        head = parse_head(pending[: end + 2].decode("latin-1"))
        del pending[: end + 4]
        self._scanned = 0
        return head

    def _read_length(self) -> bytes | None:
        assert self._head is not None
        length = self._head.length
        assert length is not None
        if len(self._pending) < length:
            return None
        with memoryview(self._pending) as view:
            body = bytes(view[:length])
        del self._pending[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        pending = self._pending
        while self._chunk != 0:
            if self._chunk is None:
                line = self._line(_MAX_CHUNK_LINE)
                if line is None:
                    return None
                match = _CHUNK.fullmatch(line)
                if match is None:
                    raise RemoteProtocolError("a chunk has no valid size")
                self._chunk = int(match[1], 16)
                if len(self._content) + self._chunk > MAX_BODY:
                    raise RemoteProtocolError(f"the answer's body is over {MAX_BODY} bytes")
                continue
            if len(pending) < self._chunk + 2:
                return None
            if pending[self._chunk : self._chunk + 2] != b"\r\n":
                raise RemoteProtocolError("a chunk is longer than it says")
            with memoryview(pending) as view:
                self._content += view[: self._chunk]
            del pending[: self._chunk + 2]
            self._chunk = None
        while (line := self._line(MAX_HEAD)) is not None:
            if not line:
                return bytes(self._content)
            if not _FIELD.fullmatch(line.decode("latin-1") + "\r\n"):
                raise RemoteProtocolError("a trailer is no header field")
        return None

    def _line(self, longest: int) -> bytes | None:
        end = self._pending.find(b"\r\n", 0, longest + 2)
        if end < 0:
            if len(self._pending) > longest + 2:
                raise RemoteProtocolError(f"a line of the chunked body is over {longest} bytes")
            return None
        line = bytes(self._pending[:end])
        del self._pending[: end + 2]
        return line


class Head:
    """A response's head, never changed. ``length`` is the body's, None when it comes in chunks."""

    __slots__ = ("headers", "keep_alive", "length", "status")

    def __init__(
        self, status: int, headers: dict[str, str], length: int | None, *, keep_alive: bool
    ) -> None:
        self.status = status
        self.headers = MappingProxyType(headers)
        self.length = length
        self.keep_alive = keep_alive


def parse_head(text: str) -> Head:
    """Read a head: whole lines, without the empty one. Raises RemoteProtocolError."""
    return _parse_known(text) if len(text) <= _MAX_KNOWN else _parse_head(text)


def _parse_head(text: str) -> Head:
    match = _STATUS.match(text)
    if match is None:
        raise RemoteProtocolError("the answer's status line is not HTTP/1.1")
    status = int(match[2])
    fields = _FIELD.findall(text, match.end())
    if len(fields) != text.count("\n") - 1:
        raise RemoteProtocolError("a header of the answer is malformed")
    headers: dict[str, str] = {}
    for name, value in fields:
        name, value = name.lower(), value.rstrip(" \t")
        if name in headers:
            if name in ("content-length", "transfer-encoding"):
                raise RemoteProtocolError(f"the answer has two {name} headers")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    length = declared_length(status, headers, minor=match[1])
    keep_alive = match[1] == "1"
    if "connection" in headers:
        options = {option.strip() for option in headers["connection"].lower().split(",")}
        keep_alive = "close" not in options and (keep_alive or "keep-alive" in options)
    return Head(status, headers, length, keep_alive=keep_alive)


# An endpoint's answers have mostly the same head, save for the length and the second.
_parse_known = lru_cache(maxsize=256)(_parse_head)


def declared_length(status: int, headers: dict[str, str], *, minor: str) -> int | None:
    """How many bytes the body has, None when it comes in chunks. Raises RemoteProtocolError."""
    declared, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if declared is not None:
            raise RemoteProtocolError("the answer has both a length and a transfer coding")
        if coding.lower() != "chunked" or minor != "1" or status in (204, 304) or status < 200:
            raise RemoteProtocolError(f"transfer coding {coding[:40]!r} is not expected here")
        return None
    if status < 200 or status in (204, 304):
        return 0
    if declared is None:
        raise RemoteProtocolError("the answer says no length: its end could not be told")
    if not _LENGTH.fullmatch(declared) or int(declared) > MAX_BODY:
        raise RemoteProtocolError(f"the answer's length {declared[:40]!r} is not acceptable")
    return int(declared)
