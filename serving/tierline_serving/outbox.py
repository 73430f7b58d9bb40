"""Holds answers back until a batch is settled, and writes them one right after another.

A write wakes its caller, which costs the node more than the write itself; callers on one machine
are awake already when the next answer follows at once.
"""

from __future__ import annotations

from asyncio import WriteTransport
from types import TracebackType


class Outbox:
    """Answers on their way out; ``with`` it while a batch is settled. Used on one loop."""

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

    def __enter__(self) -> None:
        self._holds = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._holds = False
        held, self._held = self._held, []
        for transport, data in held:
            if not transport.is_closing():
                transport.write(data)
