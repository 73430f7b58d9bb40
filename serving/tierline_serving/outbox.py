"""Holds answers back until a batch is settled, and writes them one right after another.

A write wakes its caller, which costs the node more than the write itself; callers on one machine
are awake already when the next answer follows at once.
"""

from __future__ import annotations

from asyncio import WriteTransport


class Outbox:
    """Answers on their way out: ``hold`` them while a batch is settled, then ``release`` them,
    come what may. Used on one loop."""

    __slots__ = ("_held", "_holds")

    def __init__(self) -> None:
        self._holds = False
        self._held: list[tuple[WriteTransport, bytes]] = []

    def write(self, transport: WriteTransport, data: bytes) -> None:
        """Write now, or with the others when the batch is settled."""
        if self._holds:
            self._held.append((transport, data))
        else:
            transport.write(data)

    # No context manager: compiled, entering and leaving one costs several look-ups a batch.

    def hold(self) -> None:
        """Keep what is written from now on."""
        self._holds = True

    def release(self) -> None:
        """Write what was kept, and from now on at once."""
        self._holds = False
        held, self._held = self._held, []
        for transport, data in held:
            if not transport.is_closing():
                transport.write(data)
