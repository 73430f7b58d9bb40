"""Answers ``GET /metrics`` of one worker with the sum over all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from tierline_serving.app import App
from tierline_serving.front.exchange import Message, Receive, Scope, Send
from tierline_serving.workers.family import Family
from tierline_serving.workers.sums import add_up

_PATH: Final = "/metrics"


class FamilyApp:
    """An app whose metrics are those of the whole family; all else is the app's own."""

    def __init__(self, app: App, family: Family) -> None:
        self._app = app
        self._family = family

    def __getattr__(self, name: str) -> object:
        return getattr(self._app, name)  # what the protocol classes ask of an app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _PATH and scope["method"] == "GET":
            await self._app(scope, receive, self._summing(send))
        else:
            await self._app(scope, receive, send)

    def _summing(self, send: Send) -> Callable[[Message], Awaitable[None]]:
        started: list[Message] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
                return
            start = dict(started[0])
            body: bytes = message.get("body", b"")
            if start["status"] == 200:
                body = add_up([body, *await self._family.metrics()])
                named = [each for each in start["headers"] if each[0] != b"content-length"]
                length = (b"content-length", str(len(body)).encode())
                start["headers"] = [*named, length]
            await send(start)
            await send({**message, "body": body})

        return collect
