"""The HTTP surface of an endpoint as a bare ASGI app: routes and headers, nothing decided here."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from tierline import CallError
from tierline.wire import ErrorReply
from tierline.wire.errors import http_status, to_reply
from tierline.wire.frames import encode_reply
from tierline.wire.headers import CONTENT_TYPE, REQUEST_ID_HEADER
from tierline_serving.handlers import OK, Answer, Handlers, as_json, error_answer, internal_error
from tierline_serving.metrics import METRICS_CONTENT_TYPE
from tierline_serving.settings import ServerSettings

# Any: ASGI messages and scopes are dicts of mixed values by specification.
Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SCORE_PATH: Final = "/v1/score"
QUEUE_HEADER: Final = b"x-tierline-queue-ms"  # expected wait of a request arriving now
COMPUTE_HEADER: Final = b"x-tierline-compute-ms"  # what this request's batch took
BUNDLE_HEADER: Final = b"x-tierline-bundle"

# A request answered sooner is not watched for its caller hanging up: watching costs a task.
WATCH_AFTER: Final = 0.005

_log = logging.getLogger("tierline.serving")

_FRAME: Final = CONTENT_TYPE.encode()
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"


class _Refused(Exception):
    """The request cannot be read; ``status`` and ``code`` say how to answer."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.error = ErrorReply(code=code, message=message)
        self.status = http_status(code) if status is None else status


class App:
    """ASGI 3 application over ``Handlers``."""

    def __init__(
        self,
        handlers: Handlers,
        settings: ServerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handlers = handlers
        self._settings = settings
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this app speaks http, not {scope['type']!r}")
        path, method = scope["path"], scope["method"]
        if path == SCORE_PATH and method == "POST":
            await self._score(scope, receive, send)
        elif path == SCORE_PATH:
            await self._wrong_verb(send, method, "POST")
        elif not _is_known(path):
            message = f"there is nothing at {path!r}; POST {SCORE_PATH} scores"
            await self._send_error(send, ErrorReply(code="bad_request", message=message), 404)
        elif method != "GET":
            await self._wrong_verb(send, method, "GET")
        else:
            await self._get(scope, send)

    # POST /v1/score

    async def _score(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_at = self._clock()
        headers = _text_headers(scope["headers"])
        try:
            frame = await self._read_body(headers, receive)
        except _Refused as refused:
            await self._send_answer(send, error_answer(refused.error), status=refused.status)
            return
        if frame is None:
            return  # the caller hung up while sending
        watch = _DisconnectWatch(receive)
        try:
            answer = await self._handlers.score_frame(frame, headers, arrived_at)
        except asyncio.CancelledError:
            if not watch.caller_left:
                raise
            return  # nobody is there to answer
        finally:
            watch.stop()
        await self._send_answer(send, answer)

    async def _read_body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        """The whole body, or None when the caller left. Raises _Refused."""
        limit = self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            return body
        try:
            async with asyncio.timeout(self._settings.read_timeout):
                return await _read_rest(message, receive, limit)
        except TimeoutError:
            seconds = self._settings.read_timeout
            raise _Refused(
                "bad_request", f"the body did not arrive within {seconds:g} s", 408
            ) from None

    async def _send_answer(self, send: Send, answer: Answer, *, status: int | None = None) -> None:
        headers = [(b"content-type", _FRAME)]
        if answer.request_id is not None:
            headers.append((REQUEST_ID_HEADER.encode(), answer.request_id.encode()))
        if answer.retry_after is not None:
            # HTTP knows whole seconds only; the frame carries the exact number.
            headers.append((b"retry-after", b"%d" % max(1, round(answer.retry_after))))
        if answer.reply is not None:
            compute = answer.reply.timings["compute"]
            headers.append((QUEUE_HEADER, _milliseconds(answer.expected_wait)))
            headers.append((COMPUTE_HEADER, _milliseconds(compute)))
            headers.append((BUNDLE_HEADER, answer.reply.bundle.encode()))
        if status is None:
            status = 200 if answer.code == OK else http_status(answer.code)
        await self._send(send, status, b"".join(answer.frame), headers)

    # GET

    async def _get(self, scope: Scope, send: Send) -> None:
        path: str = scope["path"]
        match path:
            case "/livez":
                await self._send(send, 200, b"alive\n", [(b"content-type", _TEXT)])
            case "/readyz":
                ready = self._handlers.is_ready
                text = b"ready\n" if ready else b"not ready\n"
                await self._send(send, 200 if ready else 503, text, [(b"content-type", _TEXT)])
            case "/metrics":
                kind = METRICS_CONTENT_TYPE.encode()
                await self._send(
                    send, 200, self._handlers.metrics_text(), [(b"content-type", kind)]
                )
            case "/metadata":
                await self._send_json(send, self._handlers.metadata())
            case "/v1/models":
                models = [as_json(info) for info in self._handlers.models()]
                await self._send_json(send, {"models": models})
            case _:
                await self._get_model(scope, send)

    async def _get_model(self, scope: Scope, send: Send) -> None:
        name = scope["path"].removeprefix("/v1/models/")
        try:
            if name.endswith("/prior"):
                reply = self._handlers.prior(unquote(name.removesuffix("/prior")))
                bundle = (BUNDLE_HEADER, reply.bundle.encode())
                body = b"".join(encode_reply(reply))
                await self._send(send, 200, body, [(b"content-type", _FRAME), bundle])
            else:
                await self._send_json(send, as_json(self._handlers.model(unquote(name))))
        except CallError as error:
            await self._send_answer(send, error_answer(to_reply(error)))
        except Exception as error:  # the shell's edge: logged, and told by its id
            await self._send_answer(send, internal_error(error, None))

    # Answers

    async def _wrong_verb(self, send: Send, method: str, allowed: str) -> None:
        error = ErrorReply(code="bad_request", message=f"{method} is not for here; use {allowed}")
        await self._send_error(send, error, 405, [(b"allow", allowed.encode())])

    async def _send_error(
        self,
        send: Send,
        error: ErrorReply,
        status: int,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        body = b"".join(error_answer(error).frame)
        await self._send(send, status, body, [(b"content-type", _FRAME), *headers])

    async def _send_json(self, send: Send, value: object) -> None:
        body = json.dumps(value).encode() + b"\n"
        await self._send(send, 200, body, [(b"content-type", _JSON)])

    async def _send(
        self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        if self._handlers.asks_to_leave:
            headers.append((b"connection", b"close"))
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        except RuntimeError as error:
            # uvicorn does not tell a pipelined request that its connection broke; uvloop then
            # refuses the write: "… the handler is closed".
            if "closed" not in str(error):
                raise
            _log.info("caller left before the answer", extra={"status": status})


class _DisconnectWatch:
    """Cancels the task that made it when its caller hangs up before the answer."""

    def __init__(self, receive: Receive) -> None:
        self.caller_left = False
        self._receive = receive
        self._handling = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _start(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.caller_left = True
        if self._handling is not None:
            self._handling.cancel()


async def _read_rest(message: Message, receive: Receive, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    return None


def _is_known(path: str) -> bool:
    if path in ("/livez", "/readyz", "/metadata", "/metrics", "/v1/models"):
        return True
    name = path.removeprefix("/v1/models/").removesuffix("/prior")
    return path.startswith("/v1/models/") and name != "" and "/" not in name


def _text_headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def _milliseconds(seconds: float) -> bytes:
    return b"%.3f" % (seconds * 1000.0)


def _too_large(limit: int) -> _Refused:
    return _Refused("too_large", f"the body is larger than this endpoint takes ({limit} bytes)")
