"""Carries requests from the event loop to one scoring thread and their answers back.

The batcher and the admission decide, under one lock; this acts. Nothing polls: the thread sleeps
until a request rings, and takes the next batch itself, so that the scorer never waits for the loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from tierline import (
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    Unavailable,
)
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.admission import Admission, Backlog, Verdict
from tierline_serving.batching.batcher import Batch, Batcher, BatchLimits, Refusal
from tierline_serving.batching.isolation import Outcome, score_each
from tierline_serving.scorer import Scorer

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One finished batch: its size, the seconds it took, and how often the scorer had to run."""

    model: str
    requests: int
    rows: int
    compute: float
    runs: int  # 1; more when the batch failed and was taken apart
    failed: int
    bundle: str
    queue: float  # seconds its requests waited, all together


class _Pending:
    """One submitted request on its way; its identity is the ticket."""

    __slots__ = ("compute", "deadline_at", "future", "queue", "request", "rows", "submitted_at")

    def __init__(
        self,
        request: ScoreRequest,
        rows: int,
        deadline_at: float,
        submitted_at: float,
        future: asyncio.Future[ScoreReply],
    ) -> None:
        self.request = request
        self.rows = rows
        self.deadline_at = deadline_at
        self.submitted_at = submitted_at
        self.future = future
        self.queue = self.compute = 0.0


class Runner:
    """Answers requests with one scorer. Create, ``start`` and use it on one event loop.

    ``clock`` tells monotonic seconds; ``on_batch`` is called on the loop after each batch.
    """

    def __init__(
        self,
        scorer: Scorer,
        limits: BatchLimits | None = None,
        *,
        clock: Clock = time.monotonic,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        self.scorer = scorer
        self.limits = limits or BatchLimits()
        self._clock = clock
        self._on_batch = on_batch
        self._lock = threading.Lock()  # guards all that follows, up to the doorbell
        self._batcher: Batcher[_Pending] = Batcher(self.limits)
        self._admission = Admission(self.limits.max_batch_rows)
        self._running: Batch[_Pending] | None = None
        self._running_since = 0.0
        self._is_idle = False
        self._is_closed = False
        self._doorbell: SimpleQueue[None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(
            target=self._work, name=f"scoring-{scorer.info.name}", daemon=True
        )

    def start(self) -> None:
        """Start the scoring thread. Call it once, on the loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the scoring thread is there to answer."""
        return self._thread.is_alive() and not self._is_closed

    @property
    def unanswered(self) -> int:
        """Requests queued or being scored now."""
        with self._lock:
            running = len(self._running.tickets) if self._running is not None else 0
            return self._batcher.queued_requests + running

    def expected_wait(self) -> float:
        """Predicted seconds in the queue for a request arriving now."""
        with self._lock:
            return self._admission.expected_wait(self._backlog(), self._clock())

    async def submit(self, request: ScoreRequest, deadline_at: float) -> ScoreReply:
        """Score a validated request; ``timings`` of the reply gain ``queue`` and ``compute``.

        Raises DeadlineExceeded when the deadline passes first, Overloaded when it cannot be met or
        the queue is full, Unavailable after ``close``, and whatever the scorer raised for this
        request. Cancelling the caller takes the request out of the queue.
        """
        loop = self._loop
        assert loop is not None, "start() comes before submit()"
        rows = self.scorer.rows(request)
        now = self._clock()
        pending = _Pending(request, rows, deadline_at, now, loop.create_future())
        self._enter(pending, now)
        timer = loop.call_later(deadline_at - now, self._expire, pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            with self._lock:
                self._batcher.withdraw(pending)
            raise
        finally:
            timer.cancel()

    def forget_costs(self) -> None:
        """Unlearn the cost of batches: warm-up ones are slower than those that follow."""
        with self._lock:
            self._admission = Admission(self.limits.max_batch_rows)

    def abandon(self, reason: str) -> int:
        """Refuse new work and fail all that is unanswered with Unavailable(reason); how many."""
        with self._lock:
            self._is_closed = True
            left = list(self._batcher.clear())
            if self._running is not None:
                left += self._running.tickets
        self._doorbell.put(None)
        waiting = [pending for pending in left if not pending.future.done()]
        for pending in waiting:
            pending.future.set_exception(Unavailable(reason))
        return len(waiting)

    def close(self, timeout: float = 1.0) -> bool:
        """Stop the thread and close the scorer; False when a batch outlasted ``timeout`` seconds.

        A scorer still at work is not closed under its own feet: its thread dies with the process.
        """
        self.abandon("the endpoint is shutting down")
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self.scorer.close()
        return True

    # On the loop.

    def _enter(self, pending: _Pending, now: float) -> None:
        with self._lock:
            if self._is_closed:
                raise Unavailable("the endpoint is shutting down; ask another")
            backlog = self._backlog()
            decision = self._admission.decide(pending.rows, pending.deadline_at, backlog, now)
            refusal: Refusal | None = None
            if decision.verdict is Verdict.ADMIT:
                refusal = self._batcher.offer(pending, pending.rows, pending.deadline_at, now)
            full_for = self._admission.retry_after(backlog, now) if refusal else 0.0
            rings = self._is_idle and refusal is None and decision.verdict is Verdict.ADMIT
            if rings:
                self._is_idle = False
        if rings:
            self._doorbell.put(None)
        elif decision.verdict is Verdict.DEADLINE_PASSED or refusal is Refusal.DEADLINE_PASSED:
            raise DeadlineExceeded("the deadline had passed before the request could be queued")
        elif decision.verdict is Verdict.OVERLOADED:
            raise _overloaded(
                "the deadline cannot be met behind what is queued", decision.retry_after
            )
        elif refusal is Refusal.QUEUE_FULL:
            raise _overloaded("the queue is full", full_for)
        elif refusal is Refusal.TOO_LARGE:
            raise BadRequest(
                f"the request costs {pending.rows} rows; this endpoint takes at most "
                f"{self.limits.max_queue_rows}: ask in smaller parts"
            )

    def _backlog(self) -> Backlog:
        running = self._running.rows if self._running is not None else 0
        return Backlog(self._batcher.queued_rows, running, self._running_since)

    def _expire(self, pending: _Pending) -> None:
        with self._lock:
            was_queued = self._batcher.withdraw(pending)
        if not pending.future.done():
            where = "in the queue" if was_queued else "while the model was computing"
            pending.future.set_exception(DeadlineExceeded(f"the deadline passed {where}"))

    def _settle(
        self, batch: Batch[_Pending], outcomes: Sequence[Outcome], report: BatchReport | None
    ) -> None:
        for pending in batch.expired:
            if not pending.future.done():
                pending.future.set_exception(DeadlineExceeded("the deadline passed in the queue"))
        for pending, outcome in zip(batch.tickets, outcomes, strict=True):
            if pending.future.done():
                continue  # its caller gave up or ran out of time
            if isinstance(outcome, ScoreReply):
                pending.future.set_result(_timed(outcome, pending))
            else:
                pending.future.set_exception(
                    outcome or DeadlineExceeded("the deadline passed while the batch was retried")
                )
        if report is not None and self._on_batch is not None:
            self._on_batch(report)

    # On the scoring thread.

    def _work(self) -> None:
        try:
            while (batch := self._next()) is not None:
                outcomes, report = self._score(batch) if batch.tickets else ((), None)
                self._deliver(batch, outcomes, report)
        finally:
            with self._lock:  # whatever ended this thread, nobody may queue for it any more
                self._is_closed = True

    def _next(self) -> Batch[_Pending] | None:
        while True:
            with self._lock:
                self._running = None
                if self._is_closed:
                    return None
                now = self._clock()
                batch = self._batcher.take(now)
                if batch is not None:
                    self._running, self._running_since = batch, now
                    return batch
                self._is_idle = True
            self._doorbell.get()

    def _score(self, batch: Batch[_Pending]) -> tuple[Sequence[Outcome], BatchReport]:
        tickets = batch.tickets
        started = self._running_since

        def is_wanted(index: int) -> bool:
            pending = tickets[index]
            return not pending.future.done() and pending.deadline_at > self._clock()

        isolated = score_each(self.scorer.score, [each.request for each in tickets], is_wanted)
        finished = self._clock()
        compute = finished - started
        waited = 0.0
        for pending in tickets:
            pending.queue = max(0.0, started - pending.submitted_at)
            pending.compute = compute
            waited += pending.queue
        failed = sum(isinstance(outcome, Exception) for outcome in isolated.outcomes)
        if isolated.runs == 1 and not failed:
            with self._lock:
                self._admission.observe(batch.rows, compute, finished)
        report = BatchReport(
            model=self.scorer.info.name,
            requests=len(tickets),
            rows=batch.rows,
            compute=compute,
            runs=isolated.runs,
            failed=failed,
            bundle=self.scorer.info.bundle,
            queue=waited,
        )
        return isolated.outcomes, report

    def _deliver(
        self, batch: Batch[_Pending], outcomes: Sequence[Outcome], report: BatchReport | None
    ) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._settle, batch, outcomes, report)
        except RuntimeError:
            # The loop is closed: the process is leaving and nobody waits for this batch any more.
            if not self._loop.is_closed():
                raise


def _overloaded(message: str, retry_after: float | None) -> Overloaded:
    error = Overloaded(f"{message}; try later or elsewhere")
    error.retry_after = retry_after
    return error


def _timed(reply: ScoreReply, pending: _Pending) -> ScoreReply:
    # Built by hand: dataclasses.replace costs three times as much.
    return ScoreReply(
        model=reply.model,
        bundle=reply.bundle,
        scores=reply.scores,
        items=reply.items,
        uncertainty=reply.uncertainty,
        threshold=reply.threshold,
        timings={**reply.timings, "queue": pending.queue, "compute": pending.compute},
    )
