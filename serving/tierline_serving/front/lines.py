"""Writes to a connection at once.

A transport of uvloop's keeps what it is given until the loop has heard everybody who has sent
something. While calls are refused in numbers that takes many milliseconds, and who is refused
should know at once.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

_NO_DESCRIPTOR: Final = -1


class Line:
    """A connection's way out; encrypted ones write through their transport."""

    __slots__ = ("_descriptor", "_transport")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        carrier = transport.get_extra_info("socket")
        is_plain = carrier is not None and transport.get_extra_info("sslcontext") is None
        self._descriptor: int = carrier.fileno() if is_plain else _NO_DESCRIPTOR

    def write(self, data: bytes) -> None:
        """Write all of it, the rest of what the kernel does not take now when it does; nothing to
        who has gone."""
        transport = self._transport
        if transport.is_closing():  # its descriptor may be another's by now
            return
        if self._descriptor != _NO_DESCRIPTOR and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # full, or broken: the transport meets the same, and knows what to do
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)
