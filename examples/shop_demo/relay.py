"""A TCP relay in front of one server that can be cut like a cable and joined again.

While it is cut no byte passes in either direction and nobody is told: connections hang, as they do
when a route disappears. What was on its way is delivered after the cable is joined, as TCP would.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

CHUNK = 65536  # bytes read at once
START_TIMEOUT = 10.0  # seconds for the relay's thread to listen


class Relay:
    """Listens on a loopback port of its own and passes everything to ``127.0.0.1:to_port``.

    Runs one event loop in one thread; every method may be called from any thread. ``port`` is
    known after ``start``. ``close`` (or leaving the ``with`` block) ends the thread.
    """

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._joined = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._listening = threading.Event()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Begin to listen. Raises RuntimeError when that does not happen in time."""
        self._thread.start()
        if not self._listening.wait(START_TIMEOUT):
            raise RuntimeError(f"the relay did not listen within {START_TIMEOUT:.0f} s")
        return self

    def cut(self) -> None:
        """Stop passing bytes, silently."""
        self._loop.call_soon_threadsafe(self._joined.clear)

    def restore(self) -> None:
        """Pass bytes again, the held ones first."""
        self._loop.call_soon_threadsafe(self._joined.set)

    def close(self) -> None:
        """Drop every connection and end the thread. Closing twice is fine."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._listening.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._shut())
        self._loop.close()

    async def _listen(self) -> None:
        self._joined.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a side hung up, or the relay is closing: both mean this connection is over
        finally:
            self._pumps.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._joined.wait()
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        try:
            there = asyncio.create_task(self._pump(reader, up_writer))
            back = asyncio.create_task(self._pump(up_reader, writer))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in (there, back):
                    pump.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            up_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(CHUNK):
                await self._joined.wait()
                writer.write(chunk)
                await writer.drain()
