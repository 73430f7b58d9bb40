"""The ASGI app as Ray mounts it: below a prefix, with a life span, its answers named once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from tierline.wire.headers import REQUEST_ID_HEADER
from tierline_serving.app import App
from tierline_serving.front.exchange import Receive, Scope, Send

_ID: Final = REQUEST_ID_HEADER.encode()


class Mounted:
    """``leave`` is awaited when Ray ends the replica, after its last request was answered."""

    def __init__(self, app: App, *, leave: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return

        async def named_once(message: dict[str, Any]) -> None:  # Any: an ASGI message
            # Ray's proxy names the request in every answer; said twice it is another name.
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0] != _ID]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(below(scope), receive, named_once)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._leave()
                await send({"type": "lifespan.shutdown.complete"})
                return


def below(scope: Scope) -> Scope:
    """The scope with its path as the app knows it, without the prefix it hangs below."""
    root: str = scope.get("root_path", "")
    if not root or not scope["path"].startswith(f"{root}/"):
        return scope
    raw: bytes = scope.get("raw_path") or b""
    prefix = root.encode()
    return {
        **scope,
        "path": scope["path"].removeprefix(root),
        "raw_path": raw.removeprefix(prefix) if raw.startswith(prefix + b"/") else raw,
    }
