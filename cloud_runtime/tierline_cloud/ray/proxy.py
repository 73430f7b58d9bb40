"""Stands before Ray's HTTP proxy, in the proxy's process: finds the region's application, hands the
caller's deadline on to Ray, and turns Ray's own refusals into Tierline's.

Ray calls ``middlewares`` when a proxy starts (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH). Bodies
and the headers of answers pass through untouched.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tierline.deadline import DEADLINE_HEADER
from tierline.wire import ErrorReply
from tierline.wire.errors import http_status
from tierline.wire.frames import encode_error
from tierline.wire.headers import CONTENT_TYPE, REQUEST_ID_HEADER
from tierline_cloud.ray.plan import REGION_LABEL, REGIONAL, route_prefix
from tierline_serving.front.exchange import Message, RawHeaders, Receive, Scope, Send
from tierline_serving.front.heads import SCORE_PATH
from tierline_serving.front.native import REASON_HEADER

App = Callable[[Scope, Receive, Send], Awaitable[None]]

RAYS_OWN: Final = "/-/"  # health and routes: answered by the proxy itself
WHO_PATH: Final = "/-/tierline"  # tells which region a proxy serves, so that a deployer can check
ANYWHERE: Final = "*"
NOWHERE: Final = ""  # regional routing on a node without the label

_TIMEOUT: Final = b"x-request-timeout-seconds"  # Ray's: past it a request is answered and cancelled
_FRAME: Final = CONTENT_TYPE.encode()
_DEADLINE: Final = DEADLINE_HEADER.encode()
_ID: Final = REQUEST_ID_HEADER.encode()
_MILLISECONDS: Final = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
_KEPT: Final = (_ID, b"retry-after")
_LOST: Final = "the replica that had the request was lost; ask again"


class Front:
    """An ASGI app around Ray's. ``region`` is the one this proxy serves, ANYWHERE or NOWHERE."""

    def __init__(self, app: App, *, region: str = ANYWHERE) -> None:
        self._app = app
        self._region = region

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif path == WHO_PATH:
            await _send(send, 200, self._region.encode(), [(b"content-type", b"text/plain")])
        elif path.startswith(RAYS_OWN):
            await self._app(scope, receive, send)
        elif self._region == NOWHERE:
            why = f"this node has no label {REGION_LABEL}, so no region's replicas are its own"
            await _send_error(send, ErrorReply(code="unavailable", message=why), "no_region", [])
        elif path == SCORE_PATH:
            await self._score(scope, receive, send)
        else:
            await self._app(routed(scope, self._region), receive, send)

    async def _score(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        await self._app(with_timeout(routed(scope, self._region)), receive, answer)
        if answer.is_missing:  # Ray says nothing of a replica that died: uvicorn would say 500
            known = [pair for pair in scope["headers"] if pair[0] == _ID]
            error = ErrorReply(code="unavailable", message=_LOST)
            await _send_error(send, error, "replica_lost", known)


class _Answer:
    """Passes an answer on; one that is Ray's own, and none of ours, is held and translated."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None
        self._text = b""
        self.is_missing = True

    async def __call__(self, message: dict[str, Any]) -> None:  # Any: an ASGI message
        self.is_missing = False
        if message["type"] == "http.response.start" and not is_ours(message["headers"]):
            self._held = message
        elif self._held is None:
            await self._send(message)
        else:
            self._text += message.get("body", b"")
            if not message.get("more_body", False):
                held, self._held = self._held, None
                said = self._text.decode("utf-8", "replace")
                error, reason = translated(held["status"], held["headers"], said)
                kept = [pair for pair in held["headers"] if pair[0].lower() in _KEPT]
                await _send_error(self._send, error, reason, kept)


def routed(scope: Scope, region: str) -> Scope:
    """The scope as Ray's routes want it: below the region's prefix."""
    if region == ANYWHERE:
        return scope
    prefix = route_prefix(region)
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return {**scope, "path": prefix + scope["path"], "raw_path": prefix.encode() + raw}


def with_timeout(scope: Scope) -> Scope:
    """The scope with the caller's deadline in Ray's words, in place of what the caller said in
    them; a deadline that cannot be read is left to the replica to refuse."""
    headers = [pair for pair in scope["headers"] if pair[0].lower() != _TIMEOUT]
    said = [value for name, value in headers if name.lower() == _DEADLINE]
    if len(said) == 1 and _MILLISECONDS.fullmatch(said[0]) and float(said[0]) > 0.0:
        headers.append((_TIMEOUT, b"%.6f" % (float(said[0]) / 1000.0)))
    return {**scope, "headers": headers}


def is_ours(headers: RawHeaders) -> bool:
    """Whether a replica of ours has written this answer to a score call."""
    return any(name.lower() == b"content-type" and value == _FRAME for name, value in headers)


def translated(status: int, headers: RawHeaders, said: str) -> tuple[ErrorReply, str]:
    """Ray's refusal as ours, and the reason in one word. Whatever Ray means, the request itself is
    not at fault: another endpoint, or this one later, may answer it."""
    if status == 429:
        waits = [value for name, value in headers if name.lower() == b"retry-after"]
        after = float(waits[0]) if waits and waits[0].isdigit() else None
        message = "more requests wait at this proxy than it takes; try later or elsewhere"
        return ErrorReply(code="overloaded", message=message, retry_after=after), "proxy_full"
    if status == 408:
        message = "the deadline passed before a replica had answered"
        return ErrorReply(code="deadline_exceeded", message=message), "deadline_passed"
    if status == 404:
        message = "nothing is deployed here for this proxy's region"
        return ErrorReply(code="unavailable", message=message), "not_deployed"
    words = " ".join(said.split())[:200]
    message = f"Ray Serve answered {status}: {words or 'nothing'}"
    return ErrorReply(code="unavailable", message=message), "not_serving"


def middlewares() -> list[Any]:
    """What Ray puts around a proxy's app (Starlette's Middleware). Any: Ray brings Starlette."""
    from starlette.middleware import Middleware

    return [Middleware(Front, region=_own_region())]


def _own_region() -> str:
    if os.environ.get(REGIONAL) != "1":
        return ANYWHERE
    import ray

    found = ray.get_runtime_context().get_node_labels().get(REGION_LABEL, NOWHERE)
    return str(found)


async def _send_error(send: Send, error: ErrorReply, reason: str, kept: RawHeaders) -> None:
    headers = [*kept, (b"content-type", _FRAME), (REASON_HEADER, reason.encode())]
    if error.retry_after is not None and not any(name == b"retry-after" for name, _ in kept):
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after)))
    await _send(send, http_status(error.code), b"".join(encode_error(error)), headers)


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
