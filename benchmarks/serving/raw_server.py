"""The least that serves a model over HTTP: a uvloop protocol that runs the session per request.

No validation, no deadline, no batching, no metrics: the ceiling a product is held against.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop
from raw_model import RawModel


class Raw(asyncio.Protocol):
    """One connection; a request may come in pieces, one at a time."""

    def __init__(self, model: RawModel) -> None:
        self._model = model
        self._buffer = bytearray()
        self._head = self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._need:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            self._head = end + 4
            self._need = self._head + int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self._buffer) >= self._need:
            scores = self._model.score(bytes(self._buffer[self._head : self._need]))
            del self._buffer[: self._need]
            self._need = 0
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(scores), scores)
            )


async def serve(name: str, path: str) -> None:
    """Serve until killed; the first line printed is the port."""
    model = RawModel(name, path)
    server = await asyncio.get_running_loop().create_server(lambda: Raw(model), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
