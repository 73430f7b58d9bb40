"""The HTTP surface of an endpoint as a bare ASGI app: routes and headers, nothing decided here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import unquote

from tierline import CallError
from tierline.wire import ErrorReply
from tierline.wire.errors import http_status, to_reply
from tierline.wire.frames import encode_reply
from tierline.wire.headers import CONTENT_TYPE, REQUEST_ID_HEADER
from tierline_serving.access.gate import Gate
from tierline_serving.answers import OK, Answer, error_answer, internal_error
from tierline_serving.front.calls import Caller, Calls
from tierline_serving.front.exchange import (
    CALLER,
    JSON_TYPE,
    DisconnectWatch,
    Receive,
    Refused,
    Response,
    Scope,
    Send,
    caller_of,
    raw_path,
    read_body,
    respond,
    retry_header,
    text_headers,
)
from tierline_serving.front.heads import SCORE_PATH
from tierline_serving.front.native import (
    BUNDLE_HEADER,
    COMPUTE_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
)
from tierline_serving.handlers import Handlers, as_json
from tierline_serving.metrics import METRICS_CONTENT_TYPE
from tierline_serving.oip.routes import OpenInference
from tierline_serving.openapi import document
from tierline_serving.rerank.routes import RERANK_PATHS, Rerank
from tierline_serving.settings import ServerSettings

_GET_PATHS: Final = frozenset(
    {"/livez", "/readyz", "/metadata", "/metrics", "/openapi.json", "/v1/models"}
)
_FRAME: Final = CONTENT_TYPE.encode()
_TEXT: Final = b"text/plain; charset=utf-8"


class App:
    """ASGI 3 application over ``Handlers``."""

    def __init__(
        self,
        handlers: Handlers,
        settings: ServerSettings,
        *,
        gate: Gate | None = None,
        inference: OpenInference | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handlers = handlers
        self._settings = settings
        self.gate = gate
        self.native = handlers  # what front.native answers from, behind the gate
        self._bodies = handlers.bodies
        self._clock = clock
        calls = Calls(handlers, settings, clock=clock)
        self._inference = inference or OpenInference(calls)
        self._rerank = Rerank(calls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this app speaks http, not {scope['type']!r}")
        if scope["path"] == SCORE_PATH and scope["method"] == "POST" and self.gate is None:
            await self._score(scope, receive, send)
        else:
            await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        caller: Caller | None = None
        if self.gate is not None:
            try:
                caller = self.gate.admit(path, raw_path(scope), scope["headers"])
            except Refused as refused:
                await self._send_response(send, self._refusal(path, refused))
                return
            if caller is not None:
                scope = {**scope, CALLER: caller.key_id}
        if path in RERANK_PATHS:
            await self._rerank.handle(scope, receive, send)
        elif path.startswith("/v2"):
            await self._inference.handle(scope, receive, send, caller)
        else:
            await self._native(scope, receive, send)

    def _refusal(self, path: str, refused: Refused) -> Response:
        if path in RERANK_PATHS:
            return self._rerank.refusal(path, refused)
        if path.startswith("/v2"):
            return self._inference.refusal(refused)
        body = b"".join(error_answer(refused.error).frame)
        again = retry_header(refused.error.retry_after)
        return Response(refused.status, body, ((b"content-type", _FRAME), *refused.headers, *again))

    async def _native(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        try:
            headers = text_headers(scope["headers"])
            length = headers.get("content-length", "")
            size = int(length) if length.isdecimal() and len(length) < 10 else 0
            met = self._handlers.meet(headers, size, arrived_at)
            if isinstance(met, Answer):
                await self._send_answer(send, met)
                return
            frame = await read_body(headers, receive, self._settings, self._bodies)
        except Refused as refused:
            await self._send_response(send, self._refusal(SCORE_PATH, refused))
            return
        if frame is None:
            return  # the caller hung up while sending
        watch = DisconnectWatch(receive)
        try:
            answer = await self._handlers.score_frame(frame, met, arrived_at, caller_of(scope))
        except asyncio.CancelledError:
            if not watch.caller_left:
                raise
            return  # nobody is there to answer
        finally:
            watch.stop()
            self._bodies.release(len(frame))
        await self._send_answer(send, answer)

    async def _send_answer(self, send: Send, answer: Answer) -> None:
        headers = [(b"content-type", _FRAME)]
        if answer.request_id is not None:
            headers.append((REQUEST_ID_HEADER.encode(), answer.request_id.encode()))
        if answer.retry_after is not None:
            headers += retry_header(answer.retry_after)  # the frame carries the exact number
        if answer.bundle is not None:
            headers.append((QUEUE_HEADER, _milliseconds(answer.expected_wait)))
            headers.append((COMPUTE_HEADER, _milliseconds(answer.compute)))
            headers.append((BUNDLE_HEADER, answer.bundle.encode()))
        elif answer.reason is not None:
            headers.append((REASON_HEADER, answer.reason.encode()))
            if http_status(answer.code) == 429:
                headers.append((QUEUE_HEADER, _milliseconds(answer.expected_wait)))
        status = 200 if answer.code == OK else http_status(answer.code)
        body = b"".join(answer.frame)
        await respond(send, status, body, headers, asks_to_leave=self._handlers.asks_to_leave)

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
            case "/openapi.json":
                await self._send_json(send, document())
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
        await self._send(send, 200, body, [(b"content-type", JSON_TYPE)])

    async def _send(
        self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        await respond(send, status, body, headers, asks_to_leave=self._handlers.asks_to_leave)

    async def _send_response(self, send: Send, response: Response) -> None:
        await self._send(send, response.status, response.body, list(response.headers))


def _is_known(path: str) -> bool:
    if path in _GET_PATHS:
        return True
    name = path.removeprefix("/v1/models/").removesuffix("/prior")
    return path.startswith("/v1/models/") and name != "" and "/" not in name


def _milliseconds(seconds: float) -> bytes:
    return b"%.3f" % (seconds * 1000.0)
