"""Which waiting requests are scored together. Pure: told the time, it decides and never acts.

Work-conserving: nothing waits for a batch to fill; whoever asks takes what is queued. The unit of
cost is the candidate row. Earliest deadline first; a request past its deadline is never computed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket", bound=Hashable)

DEFAULT_MAX_BATCH_ROWS = 4096  # 64 requests of 64 candidates: beyond, a batch gains little
DEFAULT_MAX_BATCH_REQUESTS = 64
DEFAULT_MAX_QUEUE_ROWS = 65_536  # sixteen full batches: longer queues outlive the deadlines in them
DEFAULT_MAX_QUEUE_REQUESTS = 1024

_COMPACT_ABOVE = 64  # stale heap entries tolerated before they are swept out


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much one batch, and how much the queue before it, may hold.

    A request of more rows than ``max_batch_rows`` makes a batch of its own; one of more rows than
    ``max_queue_rows`` is never accepted.
    """

    max_batch_rows: int = DEFAULT_MAX_BATCH_ROWS
    max_batch_requests: int = DEFAULT_MAX_BATCH_REQUESTS
    max_queue_rows: int = DEFAULT_MAX_QUEUE_ROWS
    max_queue_requests: int = DEFAULT_MAX_QUEUE_REQUESTS

    def __post_init__(self) -> None:
        for name in ("max_batch_rows", "max_batch_requests", "max_queue_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_queue_rows < self.max_batch_rows:
            raise ValueError(
                f"max_queue_rows must be at least max_batch_rows ({self.max_batch_rows}), "
                f"got {self.max_queue_rows}"
            )


class Refusal(Enum):
    """Why an offered request was not queued."""

    DEADLINE_PASSED = "its deadline has passed"
    QUEUE_FULL = "the queue is full"
    TOO_LARGE = "it has more rows than the whole queue may hold"


@dataclass(frozen=True, slots=True)
class Batch(Generic[Ticket]):
    """What to score now (``tickets``, earliest deadline first) and what came too late for it."""

    tickets: tuple[Ticket, ...]
    rows: int
    expired: tuple[Ticket, ...] = ()


class Batcher(Generic[Ticket]):
    """A bounded queue of tickets and the batches drawn from it. A ticket is any hashable value."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._heap: list[tuple[float, int, Ticket]] = []  # deadline, sequence number, ticket
        self._live: dict[Ticket, tuple[int, int]] = {}  # ticket → sequence number, rows
        self._queued_rows = 0
        self._sequence = 0

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def queued_requests(self) -> int:
        return len(self._live)

    def offer(self, ticket: Ticket, rows: int, deadline_at: float, now: float) -> Refusal | None:
        """Queue a ticket. None means accepted; otherwise why not, and nothing has changed.

        Raises ValueError for a ticket that is already queued or fewer rows than one.
        """
        if rows < 1:
            raise ValueError(f"a request costs at least one row, got {rows}")
        if ticket in self._live:
            raise ValueError(f"ticket {ticket!r} is already queued")
        if not deadline_at > now:
            return Refusal.DEADLINE_PASSED
        if rows > self.limits.max_queue_rows:
            return Refusal.TOO_LARGE
        if (
            len(self._live) >= self.limits.max_queue_requests
            or self._queued_rows + rows > self.limits.max_queue_rows
        ):
            return Refusal.QUEUE_FULL
        self._sequence += 1
        self._live[ticket] = (self._sequence, rows)
        self._queued_rows += rows
        heappush(self._heap, (deadline_at, self._sequence, ticket))
        return None

    def take(self, now: float) -> Batch[Ticket] | None:
        """Draw the next batch, and whatever has expired before it; None when nothing is queued.

        Strictly in order of deadline: the first request that does not fit ends the batch, so a
        large one cannot be overtaken for ever by small ones behind it.
        """
        picked: list[Ticket] = []
        expired: list[Ticket] = []
        rows = 0
        while self._heap:
            deadline_at, sequence, ticket = self._heap[0]
            entry = self._live.get(ticket)
            if entry is None or entry[0] != sequence:
                heappop(self._heap)  # withdrawn earlier
                continue
            if deadline_at <= now:
                expired.append(ticket)
            elif picked and not self._fits(len(picked), rows + entry[1]):
                break
            else:
                picked.append(ticket)
                rows += entry[1]
            heappop(self._heap)
            self._forget(ticket)
        if not picked and not expired:
            return None
        return Batch(tuple(picked), rows, tuple(expired))

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a cancelled caller's ticket out of the queue; False when it is not queued."""
        if ticket not in self._live:
            return False
        self._forget(ticket)
        if len(self._heap) > 2 * len(self._live) + _COMPACT_ABOVE:
            self._compact()
        return True

    def clear(self) -> tuple[Ticket, ...]:
        """Empty the queue; returns what was in it, in order of arrival."""
        tickets = tuple(self._live)
        self._live.clear()
        self._heap.clear()
        self._queued_rows = 0
        return tickets

    def _fits(self, requests: int, rows: int) -> bool:
        return requests < self.limits.max_batch_requests and rows <= self.limits.max_batch_rows

    def _forget(self, ticket: Ticket) -> None:
        self._queued_rows -= self._live.pop(ticket)[1]

    def _compact(self) -> None:
        self._heap = [item for item in self._heap if self._live.get(item[2], (0, 0))[0] == item[1]]
        heapify(self._heap)
