"""One HTTP exchange over ASGI: reads a body within limits, sends an answer, notices a hang-up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tierline.wire import ErrorReply
from tierline.wire.errors import http_status
from tierline_serving.front.bodies import BodyBudget
from tierline_serving.settings import ServerSettings

# Any: ASGI messages and scopes are dicts of mixed values by specification.
Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
RawHeaders = Sequence[tuple[bytes, bytes]]

MAX_HEADERS: Final = 100  # no client sends a third of it
JSON_TYPE: Final = b"application/json"
CALLER: Final = "tierline.caller"  # in a scope: the id of the key that was shown
# Not after 413: the caller is still sending, and would be reset before reading why.
HANG_UP: Final = ((b"connection", b"close"),)
ROOM_AFTER: Final = 0.5  # seconds: what a caller of a large request is told to wait

# A request answered sooner is not watched for its caller hanging up: watching costs a task.
WATCH_AFTER: Final = 0.005

_log = logging.getLogger("tierline.serving")


class Response(NamedTuple):
    """What to send: status, body, and headers beside the content length."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", JSON_TYPE),)


class Refused(Exception):
    """The request cannot be read or is not let in; ``error`` and ``status`` say how to answer."""

    def __init__(
        self,
        code: str,
        message: str,
        status: int | None = None,
        *,
        retry_after: float | None = None,
        headers: RawHeaders = (),
    ) -> None:
        super().__init__(message)
        self.error = ErrorReply(code=code, message=message, retry_after=retry_after)
        self.status = http_status(code) if status is None else status
        self.headers = tuple(headers)


async def read_body(
    headers: Mapping[str, str], receive: Receive, settings: ServerSettings, budget: BodyBudget
) -> bytes | None:
    """The whole body, or None when the caller left. Raises Refused: too large, too slow, too many
    large ones at once. Who gets a body releases it from the budget when it is answered."""
    limit = settings.max_body_bytes
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not budget.take(len(body)):
            raise no_room()
        return body
    try:
        async with asyncio.timeout(settings.read_timeout):
            return await _read_rest(message, receive, limit, budget)
    except TimeoutError:
        message_text = f"the body did not arrive within {settings.read_timeout:g} s"
        raise Refused("bad_request", message_text, 408, headers=HANG_UP) from None


async def respond(
    send: Send,
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    asks_to_leave: bool,
) -> None:
    """Send a whole answer; with ``asks_to_leave`` the caller is told to close the connection."""
    headers.append((b"content-length", b"%d" % len(body)))
    if asks_to_leave:
        headers.append((b"connection", b"close"))
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    except RuntimeError as error:
        # uvicorn does not tell a pipelined request that its connection broke; uvloop then
        # refuses the write: "… the handler is closed".
        if "closed" not in str(error):
            raise
        _log.debug("caller left before the answer", extra={"status": status})


class DisconnectWatch:
    """Cancels the task that made it when its caller hangs up before the answer."""

    def __init__(self, receive: Receive) -> None:
        self.caller_left = False
        self._receive = receive
        self._handling = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._start)

    def stop(self) -> None:
        """The answer is there: nobody has to watch any more."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _start(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
            # A server that answers at once, again and again, must not keep the loop to itself.
            await asyncio.sleep(WATCH_AFTER)
        self.caller_left = True
        if self._handling is not None:
            self._handling.cancel()


def raw_path(scope: Scope) -> str:
    """The path as it was sent, percent signs and all."""
    raw = scope.get("raw_path")
    return raw.decode("ascii", "replace") if raw else str(scope["path"])


def caller_of(scope: Scope) -> str:
    """Whose request this is, as far as an even share goes: a key's id, else the address."""
    client = scope.get("client")
    return str(scope.get(CALLER) or (client[0] if client else ""))


def text_headers(raw: RawHeaders) -> dict[str, str]:
    """Header names (lower case) and values as text. Raises Refused when there are too many."""
    if len(raw) > MAX_HEADERS:
        message = f"a request may have at most {MAX_HEADERS} headers"
        raise Refused("bad_request", message, 431, headers=HANG_UP)
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def retry_header(seconds: float | None) -> tuple[tuple[bytes, bytes], ...]:
    """``Retry-After``, in the whole seconds HTTP knows; nothing for None."""
    return () if seconds is None else ((b"retry-after", b"%d" % max(1, round(seconds))),)


def no_room() -> Refused:
    """The refusal of a large body while others fill the memory set aside for them."""
    message = "too many large requests are being read at once; try later or elsewhere"
    return Refused("overloaded", message, retry_after=ROOM_AFTER)


async def _read_rest(
    message: Message, receive: Receive, limit: int, budget: BodyBudget
) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    is_whole = False
    try:
        while message["type"] == "http.request":
            part: bytes = message.get("body", b"")
            if size + len(part) > limit:
                raise _too_large(limit)
            if not budget.grow(size, size + len(part)):
                size = 0  # given back already
                raise no_room()
            size += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                is_whole = True
                return b"".join(parts)
            message = await receive()
        return None
    finally:
        if not is_whole:
            budget.release(size)


def _too_large(limit: int) -> Refused:
    return Refused("too_large", f"the body is larger than this endpoint takes ({limit} bytes)")
