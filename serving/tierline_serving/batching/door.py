"""Who may join a runner's queue: in time by the admission, and within the queue's bounds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tierline import CallError
from tierline_serving.admission import Admission, Backlog, Verdict
from tierline_serving.batching.batcher import Batcher
from tierline_serving.batching.limits import YIELDS, Refusal
from tierline_serving.batching.pending import Pending
from tierline_serving.batching.refusing import decided, overtaken, refused

FRAME_HEAD: Final = 256  # bytes of a request's length that may be names and shapes, not tensors


class _Late:
    """A request that would have been late behind what was queued, and what it was told."""

    __slots__ = ("_before", "_criticality", "_deadline_at", "_rows", "error")

    def __init__(
        self, rows: int, deadline_at: float, criticality: str, before: int, error: CallError
    ) -> None:
        self._rows = rows
        self._deadline_at = deadline_at
        self._criticality = criticality
        self._before = before
        self.error = error

    def covers(self, rows: int, deadline_at: float, criticality: str, before: int) -> bool:
        """Whether a newer request must be late as well: it is of the same class, as large, due as
        early, and as much is queued before it. In an overload most calls read between two
        batches are."""
        return (
            before >= self._before
            and rows >= self._rows
            and deadline_at <= self._deadline_at
            and criticality == self._criticality
        )


class Door:
    """Lets requests into a batcher, or says why not: by their head alone, and once they are read.

    ``admission`` is told of every batch by who scores them.
    """

    def __init__(self, batcher: Batcher[Pending]) -> None:
        self._batcher = batcher
        self.admission = self._new_admission()
        self._has_looked = False  # for who is overtaken, since the last batch
        self._last_late: _Late | None = None  # whom the queue made too late, since the last batch

    def forget_costs(self) -> None:
        """Begin anew with what batches cost."""
        self.admission = self._new_admission()
        self._last_late = None

    def overtaken(
        self, backlog: Backlog, now: float, criticality: str
    ) -> Sequence[tuple[Pending, CallError]]:
        """Whom a request of this class, just admitted, has made late: they leave the queue and are
        told while there is time to ask elsewhere. Looked at once a batch at most, and only where
        somebody queued might be late: a flood of critical requests must not cost a sort each."""
        batcher, admission = self._batcher, self.admission
        nobody_behind = batcher.rows_before(criticality) == batcher.queued_rows
        if nobody_behind or self._has_looked or not admission.is_warm:
            return ()
        if admission.through(batcher.queued_rows, backlog, now) <= batcher.earliest_deadline:
            return ()
        self._has_looked = True
        late = batcher.overtaken(criticality, lambda rows: admission.through(rows, backlog, now))
        wait = admission.expected_wait(backlog, now)
        return [(pending, overtaken(wait)) for pending in late]

    def drained(self) -> None:
        """A batch was drawn: who is overtaken is looked for anew, and a class whose queue has
        emptied has no standing one."""
        self._has_looked = False
        self._last_late = None
        for criticality in YIELDS:
            if self._batcher.rows_before(criticality):
                return  # and so it is for the classes below
            self.admission.drained(criticality)

    def foresee(
        self, size: int, deadline_at: float, backlog: Backlog, now: float, criticality: str
    ) -> CallError | None:
        """Why a request of ``size`` bytes, not read yet, would be refused; None: it may come."""
        rows = self.admission.rows_in(size - FRAME_HEAD)
        before = self._batcher.rows_before(criticality)
        last = self._last_late
        if last is not None and last.covers(rows, deadline_at, criticality, before):
            return last.error
        decision = self.admission.decide(rows, deadline_at, backlog, now, criticality, before)
        if decision.verdict is not Verdict.ADMIT:
            error = decided(decision)
            if before and error is not None and decision.verdict is Verdict.OVERLOADED:
                self._last_late = _Late(rows, deadline_at, criticality, before, error)
            return error
        refusal = self._batcher.refuses(rows, size, criticality)
        if refusal is None or refusal is Refusal.TOO_LARGE:  # the size alone proves nothing
            return None
        return self._refused(refusal, rows, size, backlog, now)

    def admit(
        self, pending: Pending, backlog: Backlog, now: float, caller: str, criticality: str
    ) -> CallError | None:
        """Queue a request, or say why not."""
        rows, deadline_at, size = pending.rows, pending.deadline_at, pending.size
        self.admission.learn_size(0 if pending.request.candidates is None else rows, size)
        before = self._batcher.rows_before(criticality)
        decision = self.admission.decide(rows, deadline_at, backlog, now, criticality, before)
        if decision.verdict is not Verdict.ADMIT:
            return decided(decision)
        parts = [(part, part.rows) for part in pending.parts or (pending,)]
        refusal = self._batcher.offer_parts(
            parts, deadline_at, now, size=size, caller=caller, criticality=criticality
        )
        return None if refusal is None else self._refused(refusal, rows, size, backlog, now)

    def _refused(
        self, refusal: Refusal, rows: int, size: int, backlog: Backlog, now: float
    ) -> CallError:
        wait = self.admission.retry_after(backlog, now)
        return refused(refusal, rows, size, self._batcher.limits, wait)

    def _new_admission(self) -> Admission:
        limits = self._batcher.limits
        return Admission(limits.max_batch_rows, max_queue_seconds=limits.max_queue_seconds)
