"""Which waiting requests are scored together. Pure: told the time, it decides and never acts.

Work-conserving: nothing waits for a batch to fill; whoever asks takes what is queued. The unit of
cost is the candidate row. Earliest deadline first within a class of criticality; classes below it
count as due later. When not everything fits, no caller gets more of a batch than his even share
while another waits. A request past its deadline is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from tierline_serving.batching.limits import (
    DEFAULT,
    DEFAULT_MAX_BATCH_ROWS,
    ROOM,
    YIELDS,
    BatchLimits,
    Refusal,
)

__all__ = ["DEFAULT_MAX_BATCH_ROWS", "Batch", "BatchLimits", "Batcher", "Refusal"]

Ticket = TypeVar("Ticket", bound=Hashable)
Heap = list[tuple[float, int, Ticket]]  # when due, sequence number, ticket

_COMPACT_ABOVE = 64  # stale heap entries tolerated before they are swept out


class Batch(Generic[Ticket]):
    """What to score now (``tickets``, in the order they were drawn) and what came too late."""

    __slots__ = ("expired", "rows", "tickets")

    def __init__(
        self, tickets: tuple[Ticket, ...], rows: int, expired: tuple[Ticket, ...] = ()
    ) -> None:
        self.tickets = tickets
        self.rows = rows
        self.expired = expired


class _Waiting:
    """What is known of one queued ticket."""

    __slots__ = ("criticality", "rows", "sequence", "size")

    def __init__(self, sequence: int, rows: int, size: int, criticality: str) -> None:
        self.sequence = sequence
        self.rows = rows
        self.size = size
        self.criticality = criticality


class Batcher(Generic[Ticket]):
    """A bounded queue of tickets and the batches drawn from it. A ticket is any hashable value."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._waiting: dict[Ticket, _Waiting] = {}
        self._queues: dict[str, Heap[Ticket]] = {}  # by caller, when due
        self._deadlines: Heap[Ticket] = []
        self._sequence = 0
        self.queued_rows = 0
        self.queued_bytes = 0
        self._rows_of = dict.fromkeys(YIELDS, 0)  # by class, most critical first

    @property
    def queued_requests(self) -> int:
        return len(self._waiting)

    @property
    def earliest_deadline(self) -> float:
        """No queued request's deadline is earlier; infinity when nothing is queued."""
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def offer(
        self,
        ticket: Ticket,
        rows: int,
        deadline_at: float,
        now: float,
        *,
        size: int = 0,
        caller: str = "",
        criticality: str = DEFAULT,
    ) -> Refusal | None:
        """Queue a ticket of ``size`` bytes. None means accepted; otherwise why not, and nothing
        has changed.

        Raises ValueError for a ticket that is already queued or fewer rows than one.
        """
        parts = [(ticket, rows)]
        return self.offer_parts(
            parts, deadline_at, now, size=size, caller=caller, criticality=criticality
        )

    def offer_parts(
        self,
        parts: Sequence[tuple[Ticket, int]],
        deadline_at: float,
        now: float,
        *,
        size: int = 0,
        caller: str = "",
        criticality: str = DEFAULT,
    ) -> Refusal | None:
        """``offer`` the parts of one request, tickets with their rows: all of them or none."""
        rows = 0
        for ticket, some in parts:
            if some < 1:
                raise ValueError(f"a request costs at least one row, got {some}")
            if ticket in self._waiting:
                raise ValueError(f"ticket {ticket!r} is already queued")
            rows += some
        if not deadline_at > now:
            return Refusal.DEADLINE_PASSED
        refusal = self.refuses(rows, size, criticality, len(parts))
        if refusal is not None:
            return refusal
        due = deadline_at + YIELDS[criticality]
        queue = self._queues.get(caller)
        if queue is None:
            queue = self._queues[caller] = []
        for ticket, some in parts:
            self._sequence += 1
            waiting = _Waiting(self._sequence, some, size * some // rows, criticality)
            self._waiting[ticket] = waiting
            self._rows_of[criticality] += some
            self.queued_rows += some
            self.queued_bytes += waiting.size
            heappush(queue, (due, self._sequence, ticket))
            heappush(self._deadlines, (deadline_at, self._sequence, ticket))
        return None

    def refuses(
        self, rows: int, size: int, criticality: str = DEFAULT, requests: int = 1
    ) -> Refusal | None:
        """Why the queue has no room for so much; None when it has."""
        limits, room = self.limits, ROOM[criticality]
        if rows > limits.max_queue_rows or size > limits.max_queue_bytes:
            return Refusal.TOO_LARGE
        if not self._waiting:
            return None  # an empty queue takes all that fits into it, of any class
        if self.queued_rows + rows > limits.max_queue_rows * room:
            return Refusal.FULL_ROWS
        if self.queued_bytes + size > limits.max_queue_bytes * room:
            return Refusal.FULL_BYTES
        if len(self._waiting) + requests > int(limits.max_queue_requests * room):
            return Refusal.FULL_REQUESTS
        return None

    def rows_before(self, criticality: str) -> int:
        """Queued rows of this class and of those above it: what a newcomer finds before it.

        Of the classes below, only what is due earlier by more than they yield is drawn first; that
        is not counted, because whoever could wait so long is not refused for it.
        """
        before = 0
        for each, rows in self._rows_of.items():
            before += rows
            if each == criticality:
                break
        return before

    def overtaken(self, criticality: str, through: Callable[[int], float]) -> tuple[Ticket, ...]:
        """Take out the tickets of the classes below this one that are late now because of what is
        drawn before them: ``through(rows)`` is when so many rows of the queue are scored."""
        queued = sorted(
            entry for queue in self._queues.values() for entry in queue if self._is_queued(entry)
        )
        late: list[Ticket] = []
        rows = 0
        for due, _, ticket in queued:
            waiting = self._waiting[ticket]
            yields = YIELDS[waiting.criticality]
            if yields > YIELDS[criticality] and through(rows + waiting.rows) > due - yields:
                self._forget(ticket)
                late.append(ticket)
            else:
                rows += waiting.rows
        return tuple(late)

    def can_take(self, most: int) -> bool:
        """Whether the request that is due first has no more than ``most`` rows."""
        heads = [queue[0] for queue in self._queues.values() if self._drop_stale(queue)]
        return bool(heads) and self._waiting[min(heads)[2]].rows <= most

    def take(self, now: float, most: int | None = None) -> Batch[Ticket] | None:
        """Draw the next batch, and whatever has expired before it; None when nothing is queued.

        The first request that does not fit ends the batch, so a large one cannot be overtaken for
        ever by small ones behind it. Without ``most`` a request larger than a batch makes one of
        its own; with it no batch has more rows than that, and there may be none.
        """
        expired = self.expire(now)
        picked: list[Ticket] = []
        rows = self._pick(picked, most)
        if not picked and not expired:
            return None
        return Batch(tuple(picked), rows, expired)

    def expire(self, now: float) -> tuple[Ticket, ...]:
        """Take out what can no longer be answered in time."""
        expired: list[Ticket] = []
        deadlines = self._deadlines
        while self._drop_stale(deadlines) and deadlines[0][0] <= now:
            ticket = heappop(deadlines)[2]
            self._forget(ticket)
            expired.append(ticket)
        return tuple(expired)

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a cancelled caller's ticket out of the queue; False when it is not queued."""
        if ticket not in self._waiting:
            return False
        self._forget(ticket)
        if len(self._deadlines) > 2 * len(self._waiting) + _COMPACT_ABOVE:
            self._compact()
        return True

    def clear(self) -> tuple[Ticket, ...]:
        """Empty the queue; returns what was in it, in order of arrival."""
        tickets = tuple(self._waiting)
        self._waiting.clear()
        self._queues.clear()
        self._deadlines.clear()
        self.queued_rows = self.queued_bytes = 0
        self._rows_of = dict.fromkeys(YIELDS, 0)
        return tickets

    def _pick(self, picked: list[Ticket], most: int | None) -> int:
        """Draw into ``picked`` by turns of the callers' earliest due; returns the rows drawn."""
        limits = self.limits
        budget = limits.max_batch_rows if most is None else min(most, limits.max_batch_rows)
        heads = self._heads()
        share = budget / max(1, len(heads))
        used: dict[str, int] = {}
        later: list[tuple[tuple[float, int, Ticket], str]] = []  # who had his share of this batch
        rows = size = 0
        while heads or later:
            if not heads:  # everybody had his share: what room is left goes by due time again
                heads, later, share = later, [], float(budget)
                heapify(heads)
            (_, _, ticket), caller = heads[0]
            waiting = self._waiting[ticket]
            fits = (
                rows + waiting.rows <= budget
                and size + waiting.size <= limits.max_batch_bytes
                and len(picked) < limits.max_batch_requests
            )
            if not fits and (picked or (most is not None and rows + waiting.rows > budget)):
                break
            head = heappop(heads)
            drawn = used.get(caller, 0)
            if drawn and drawn + waiting.rows > share:
                later.append(head)
                continue
            used[caller] = drawn + waiting.rows
            rows, size = rows + waiting.rows, size + waiting.size
            picked.append(ticket)
            queue = self._queues[caller]
            heappop(queue)
            self._forget(ticket)
            if self._drop_stale(queue):
                heappush(heads, (queue[0], caller))
            else:
                del self._queues[caller]
        return rows

    def _heads(self) -> list[tuple[tuple[float, int, Ticket], str]]:
        """The heap of each caller's request that is due first; who has none is forgotten."""
        heads = []
        for caller, queue in list(self._queues.items()):
            if self._drop_stale(queue):
                heads.append((queue[0], caller))
            else:
                del self._queues[caller]
        heapify(heads)
        return heads

    def _drop_stale(self, heap: Heap[Ticket]) -> bool:
        """Drop entries of tickets no longer queued from the top; whether anything is left."""
        while heap:
            if self._is_queued(heap[0]):
                return True
            heappop(heap)
        return False

    def _is_queued(self, entry: tuple[float, int, Ticket]) -> bool:
        """Whether the entry is of a ticket that is still queued, and of the same stay."""
        waiting = self._waiting.get(entry[2])
        return waiting is not None and waiting.sequence == entry[1]

    def _forget(self, ticket: Ticket) -> None:
        waiting = self._waiting.pop(ticket)
        self.queued_rows -= waiting.rows
        self._rows_of[waiting.criticality] -= waiting.rows
        self.queued_bytes -= waiting.size

    def _compact(self) -> None:
        for heap in (self._deadlines, *self._queues.values()):
            heap[:] = [entry for entry in heap if self._is_queued(entry)]
            heapify(heap)
        self._queues = {caller: queue for caller, queue in self._queues.items() if queue}
