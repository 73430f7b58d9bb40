"""The least that serves a model over HTTP: a uvloop protocol that runs the session per request.

No validation, no deadline, no batching, no metrics: the ceiling a product is held against. With
`refuse` instead of a workload's name it reads every request and answers 429 at once, without any
work: a yardstick for how soon anybody is refused on this machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import uvloop
from raw_model import RawModel

REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


class Raw(asyncio.Protocol):
    """One connection; a request may come in pieces, one at a time."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
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
            answer = self._answer(bytes(self._buffer[self._head : self._need]))
            del self._buffer[: self._need]
            self._need = 0
            self._transport.write(answer)


def answering(name: str, path: str) -> Callable[[bytes], bytes]:
    """What makes a body the whole answer."""
    if name == "refuse":
        return lambda body: REFUSAL
    model = RawModel(name, path)

    def answer(body: bytes) -> bytes:
        scores = model.score(body)
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(scores), scores)

    return answer


async def serve(name: str, path: str) -> None:
    """Serve until killed; the first line printed is the port."""
    answer = answering(name, path)
    server = await asyncio.get_running_loop().create_server(lambda: Raw(answer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
