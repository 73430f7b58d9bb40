"""Toxiproxy's REST API over our proxies: the same paths, fields and status codes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from tierline_drills.errors import DrillError
from tierline_drills.proxy.server import ChaosProxy, Proxies
from tierline_drills.proxy.toxics import BadToxic, read_toxic

VERSION = "2.9.0"  # of the API we speak
MAX_BODY = 1 << 20

Message = MutableMapping[str, Any]
Json = Any  # what a JSON document may be


class Refused(DrillError):
    """An API request that is answered with an error."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status


class Api:
    """An ASGI application over ``proxies``."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        try:
            body = await _body(receive)
            parts = [part for part in scope["path"].split("/") if part]
            status, answer = await self._answer(scope["method"], parts, body)
        except Refused as refused:
            status, answer = refused.status, {"error": str(refused), "status": refused.status}
        except BadToxic as bad:
            status, answer = 400, {"error": str(bad), "status": 400}
        except OSError as error:
            status, answer = 500, {"error": str(error), "status": 500}
        data = b"" if status == 204 else json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _answer(self, method: str, parts: list[str], body: Json) -> tuple[int, Json]:
        match (method, *parts):
            case ("GET", "version"):
                return 200, {"version": VERSION}
            case ("POST", "reset"):
                await self._proxies.reset()
                return 204, None
            case ("GET", "proxies"):
                return 200, {name: shown(one) for name, one in self._proxies.named.items()}
            case ("POST", "proxies"):
                return 201, shown(await self._create(body))
            case ("POST", "populate"):
                made = [await self._populate(one) for one in _listed(body)]
                return 201, {"proxies": [shown(one) for one in made]}
            case (_, "proxies", name):
                return await self._proxy(method, self._found(name), body)
            case (_, "proxies", name, "toxics"):
                return self._toxics(method, self._found(name), body)
            case (_, "proxies", name, "toxics", toxic):
                return self._toxic(method, self._found(name), toxic, body)
            case _:
                raise Refused(404, "not found")

    async def _proxy(self, method: str, proxy: ChaosProxy, body: Json) -> tuple[int, Json]:
        if method == "DELETE":
            await proxy.stop()
            del self._proxies.named[proxy.name]
            return 204, None
        if method in ("POST", "PATCH"):
            fields = _object(body)
            moved = {"listen", "upstream"} & fields.keys()
            if moved:
                await proxy.stop()
                proxy.listen = str(fields.get("listen", proxy.listen))
                proxy.upstream = str(fields.get("upstream", proxy.upstream))
            wanted = bool(fields.get("enabled", True if moved else proxy.enabled))
            await (proxy.start() if wanted else proxy.stop())
        elif method != "GET":
            raise Refused(405, "method not allowed")
        return 200, shown(proxy)

    def _toxics(self, method: str, proxy: ChaosProxy, body: Json) -> tuple[int, Json]:
        if method == "GET":
            return 200, [toxic.to_json() for toxic in proxy.toxics.values()]
        if method != "POST":
            raise Refused(405, "method not allowed")
        toxic = read_toxic(_object(body))
        if toxic.name in proxy.toxics:
            raise Refused(409, f"toxic {toxic.name!r} already exists")
        proxy.put(toxic)
        return 200, toxic.to_json()

    def _toxic(self, method: str, proxy: ChaosProxy, name: str, body: Json) -> tuple[int, Json]:
        toxic = proxy.toxics.get(name)
        if toxic is None:
            raise Refused(404, "toxic not found")
        if method == "DELETE":
            proxy.remove(name)
            return 204, None
        if method in ("POST", "PATCH"):
            toxic = read_toxic({**_object(body), "name": name}, toxic)
            proxy.put(toxic)
        elif method != "GET":
            raise Refused(405, "method not allowed")
        return 200, toxic.to_json()

    async def _create(self, body: Json) -> ChaosProxy:
        fields = _object(body)
        for name in ("name", "upstream"):
            if not isinstance(fields.get(name), str):
                raise Refused(400, f"missing required field: {name}")
        if fields["name"] in self._proxies.named:
            raise Refused(409, "proxy already exists")
        listen = str(fields.get("listen", "127.0.0.1:0"))
        enabled = bool(fields.get("enabled", True))
        return await self._proxies.create(
            fields["name"], listen, fields["upstream"], enabled=enabled
        )

    async def _populate(self, body: Json) -> ChaosProxy:
        fields = _object(body)
        known = self._proxies.named.get(str(fields.get("name")))
        if known is not None:
            if (known.listen, known.upstream) == (fields.get("listen"), fields.get("upstream")):
                return known
            await known.stop()
            del self._proxies.named[known.name]
        return await self._create(body)

    def _found(self, name: str) -> ChaosProxy:
        if name not in self._proxies.named:
            raise Refused(404, "proxy not found")
        return self._proxies.named[name]


def shown(proxy: ChaosProxy) -> dict[str, Json]:
    """A proxy as the API shows it; ``passed`` (bytes) is ours."""
    return {
        "name": proxy.name,
        "listen": proxy.listen,
        "upstream": proxy.upstream,
        "enabled": proxy.enabled,
        "toxics": [toxic.to_json() for toxic in proxy.toxics.values()],
        "passed": dict(proxy.passed),
    }


async def serve(
    host: str, port: int, proxies: Proxies, stop: asyncio.Event, ready: Callable[[int], None]
) -> None:
    """Serve the API until ``stop`` is set; ``ready`` is told the port."""
    listener = socket.create_server((host, port))
    config = uvicorn.Config(
        Api(proxies), lifespan="off", ws="none", log_config=None, access_log=False
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    ready(listener.getsockname()[1])
    try:
        await stop.wait()
    finally:
        server.should_exit = True
        await serving
        await proxies.close()
        await asyncio.sleep(0)  # transports that were aborted close one turn later


def run(host: str, port: int, ready: Callable[[int], None]) -> None:
    """A process of its own: serve until SIGTERM or SIGINT."""

    async def until_signalled() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(host, port, Proxies(), stop, ready)

    asyncio.run(until_signalled())


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _body(receive: Callable[[], Awaitable[Message]]) -> Json:
    data = b""
    while True:
        message = await receive()
        data += message.get("body", b"")
        if len(data) > MAX_BODY:
            raise Refused(413, "the body is too long")
        if not message.get("more_body"):
            break
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise Refused(400, f"bad request body: {error}") from error


def _object(body: Json) -> dict[str, Json]:
    if not isinstance(body, dict):
        raise Refused(400, "bad request body: an object is wanted")
    return body


def _listed(body: Json) -> list[Json]:
    if not isinstance(body, list):
        raise Refused(400, "bad request body: a list of proxies is wanted")
    return body
