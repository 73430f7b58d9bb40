"""The cheapest server that can answer a score call: reads a request, writes one fixed answer."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import cast

import numpy as np
import uvloop

from tierline.wire import ScoreReply, encode_reply


def fixed_answer(candidates: int) -> bytes:
    scores = np.linspace(1, 0, candidates, dtype=np.float32)
    reply = ScoreReply(
        model="ranker", bundle="v1@000000000000", scores=scores, uncertainty=0.1, threshold=0.5
    )
    body = b"".join(encode_reply(reply))
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-tierline\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Echo(asyncio.Protocol):
    """One connection. ``delay`` is the most seconds an answer waits (drawn at random)."""

    def __init__(self, answer: bytes, delay: float, dice: random.Random) -> None:
        self._answer, self._delay, self._dice = answer, delay, dice
        self._buffer = bytearray()
        self._need = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._need < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            self._need = end + 4 + length
        if len(self._buffer) >= self._need:
            del self._buffer[: self._need]
            self._need = -1
            if self._delay:
                pause = self._dice.random() * self._delay
                asyncio.get_running_loop().call_later(pause, self._reply)
            else:
                self._reply()

    def _reply(self) -> None:
        if not self._transport.is_closing():  # the caller may have gone meanwhile
            self._transport.write(self._answer)


async def serve(core: int, candidates: int, delay: float) -> None:
    os.sched_setaffinity(0, {core})
    answer, dice = fixed_answer(candidates), random.Random(7)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(answer, delay, dice), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
