"""Carries requests to one scorer and their answers back; batcher and admission decide, this acts.

Nothing polls. A batch that is known to take less than INLINE_MOST is scored on the event loop
itself, after everything the loop has read in this turn: handing it to another thread and back
would cost more than it takes. Any other batch is scored on one thread, which sleeps until it is
rung for and takes the next batch itself, so that the scorer never waits for the loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from queue import SimpleQueue

from tierline import BadRequest, DeadlineExceeded, Unavailable
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.admission import Admission, Backlog, Shed, Verdict
from tierline_serving.batching.batcher import Batch, Batcher
from tierline_serving.batching.isolation import Outcome as Ended
from tierline_serving.batching.limits import DEFAULT, BatchLimits, Refusal
from tierline_serving.batching.parts import Joined, split
from tierline_serving.batching.pending import Done, Outcome, Pending
from tierline_serving.batching.scoring import BatchReport, score_batch
from tierline_serving.scorer import Scorer

__all__ = ["BatchReport", "Runner"]

Clock = Callable[[], float]

# Seconds. A thread hand-over and the wait for the interpreter's lock cost 0.1 to 5 ms; the loop,
# busy so long, still refuses what it cannot serve well within 5 ms.
INLINE_MOST = 0.001


class _Engine(Enum):
    """Who takes the next batch."""

    IDLE = "nobody: the queue is empty"
    TURN = "the loop, in the turn it has scheduled"
    THREAD = "the scoring thread"


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
        self._batcher: Batcher[Pending] = Batcher(self.limits)
        self._admission = self._new_admission()
        self._was_waited_for = False  # whether the next batch waited while the last one ran
        self._hint = 0.0
        self._running: Batch[Pending] | None = None
        self._running_since = 0.0
        self._engine = _Engine.IDLE
        self._is_closed = False
        self._doorbell: SimpleQueue[None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
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

    @property
    def wait_hint(self) -> float:
        """``expected_wait`` as it was when the last batch ended: what its answers carry."""
        return self._hint

    async def submit(self, request: ScoreRequest, deadline_at: float) -> ScoreReply:
        """Score a validated request; ``timings`` of the reply gain ``queue`` and ``compute``.

        Raises DeadlineExceeded when the deadline passes first, Overloaded when it cannot be met or
        the queue is full, Unavailable after ``close``, and whatever the scorer raised for this
        request. Cancelling the caller takes the request out of the queue.
        """
        answered: asyncio.Future[ScoreReply] = asyncio.get_running_loop().create_future()

        def done(pending: Pending, outcome: Outcome) -> None:
            if answered.done():
                return  # cancelled in the same turn
            if isinstance(outcome, ScoreReply):
                answered.set_result(outcome)
            else:
                answered.set_exception(outcome)

        pending = self.enter(request, deadline_at, done)
        try:
            return await answered
        except asyncio.CancelledError:
            self.leave(pending)
            raise

    def enter(
        self,
        request: ScoreRequest,
        deadline_at: float,
        done: Done,
        *,
        caller: str = "",
        criticality: str = DEFAULT,
    ) -> Pending:
        """Queue a validated request, on the loop; raises as ``submit`` does.

        ``done`` is told the reply, with its times, or the error: once, on the loop, and never
        before this returns. When not all fits into a batch, each ``caller`` gets an even share.
        """
        loop = self._loop
        assert loop is not None, "start() comes before enter()"
        now = self._clock()
        pending = Pending(request, self.scorer.rows(request), deadline_at, now, done)
        if pending.rows > self.limits.max_batch_rows:
            self._split(pending)
        with self._lock:
            self._admit(pending, now, caller, criticality)
            takes_turn = self._engine is _Engine.IDLE
            if takes_turn:
                self._engine = _Engine.TURN
            is_threaded = self._engine is _Engine.THREAD
        if takes_turn:
            loop.call_soon(self._turn)
        elif is_threaded and deadline_at < self._alarm_at:
            self._set_alarm(deadline_at, now)
        return pending

    def leave(self, pending: Pending) -> bool:
        """The caller has gone: the request leaves the queue, and nobody is told its outcome.
        False when it was told already."""
        if pending.done is None:
            return False
        pending.done = None
        with self._lock:
            for each in pending.parts or (pending,):
                each.done = None
                self._batcher.withdraw(each)
        return True

    def forget_costs(self) -> None:
        """Unlearn the cost of batches: warm-up ones are slower than those that follow."""
        with self._lock:
            self._admission = self._new_admission()

    def abandon(self, reason: str) -> int:
        """Refuse new work and fail all that is unanswered with Unavailable(reason); how many."""
        with self._lock:
            self._is_closed = True
            left = list(self._batcher.clear())
            if self._running is not None:
                left += self._running.tickets
        self._doorbell.put(None)
        waiting = [pending for pending in left if pending.done is not None]
        for pending in waiting:
            pending.settle(Unavailable(reason))
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

    def _new_admission(self) -> Admission:
        limits = self.limits
        seconds = limits.max_queue_seconds
        return Admission(limits.max_batch_rows, max_queue_seconds=seconds, short=INLINE_MOST)

    def _split(self, pending: Pending) -> None:
        joined = Joined(pending, self._joined)
        pending.parts = tuple(
            Pending(
                part,
                self.scorer.rows(part),
                pending.deadline_at,
                pending.submitted_at,
                joined.ended,
            )
            for part in split(pending.request, pending.rows, self.limits.max_batch_rows)
        )
        joined.expects(len(pending.parts))

    def _joined(self, whole: Pending, outcome: Outcome) -> None:
        """A request in parts is answered, or one part failed and the others are not wanted."""
        done = whole.done
        if done is not None:
            self.leave(whole)
            done(whole, outcome)

    def _admit(self, pending: Pending, now: float, caller: str, criticality: str) -> None:
        if self._is_closed:
            raise Unavailable("the endpoint is shutting down; ask another")
        backlog = self._backlog()
        rows, deadline_at = pending.rows, pending.deadline_at
        decision = self._admission.decide(rows, deadline_at, backlog, now, criticality)
        if decision.verdict is Verdict.DEADLINE_PASSED:
            raise DeadlineExceeded("the deadline had passed before the request could be queued")
        if decision.verdict is Verdict.OVERLOADED:
            message = "the deadline cannot be met behind what is queued"
            raise Shed("deadline_unreachable", message, decision.retry_after, decision.queue)
        parts = [(part, part.rows) for part in pending.parts or (pending,)]
        size = pending.size
        refusal = self._batcher.offer_parts(
            parts, deadline_at, now, size=size, caller=caller, criticality=criticality
        )
        if refusal is Refusal.TOO_LARGE:
            raise BadRequest(
                f"the request costs {rows} rows and {size} bytes; the whole queue here takes "
                f"{self.limits.max_queue_rows} and {self.limits.max_queue_bytes}: ask in smaller "
                "parts"
            )
        if refusal is not None:
            wait = self._admission.retry_after(backlog, now)
            raise Shed(refusal.name.lower(), refusal.value, wait, wait)

    def _backlog(self) -> Backlog:
        running = self._running.rows if self._running is not None else 0
        return Backlog(self._batcher.queued_rows, running, self._running_since)

    def _turn(self) -> None:
        """Score one batch here and now, or ring for the thread."""
        with self._lock:
            if self._is_closed:
                return
            now = self._clock()
            batch = self._take(now, self._admission.short_rows)
            if batch is None and self._batcher.queued_requests:
                self._engine = _Engine.THREAD
            elif batch is None:
                self._engine = _Engine.IDLE
        if batch is not None:
            self._score_here(batch)
        elif self._engine is _Engine.THREAD:
            self._doorbell.put(None)
            self._watch_deadlines()

    def _score_here(self, batch: Batch[Pending]) -> None:
        outcomes, report = self._score(batch) if batch.tickets else ((), None)
        with self._lock:
            self._running = None
            goes_on = self._batcher.queued_requests > 0 and not self._is_closed
            self._engine = _Engine.TURN if goes_on else _Engine.IDLE
        if goes_on and self._loop is not None:
            self._loop.call_soon(self._turn)  # the loop reads and refuses in between
        self._settle(batch, outcomes, report)

    def _settle(
        self, batch: Batch[Pending], outcomes: Sequence[Ended], report: BatchReport | None
    ) -> None:
        for pending in batch.expired:
            pending.settle(DeadlineExceeded("the deadline passed in the queue"))
        for pending, outcome in zip(batch.tickets, outcomes, strict=True):
            pending.settle(
                outcome or DeadlineExceeded("the deadline passed while the batch was retried")
            )
        if report is not None and self._on_batch is not None:
            self._on_batch(report)

    # Deadlines that pass while the thread computes. On the loop itself nothing can pass unseen: a
    # batch there is short, and the queue is looked through before the next.

    def _watch_deadlines(self) -> None:
        with self._lock:
            running = self._running.tickets if self._running is not None else ()
            earliest = min(
                (each.deadline_at for each in running if each.done is not None),
                default=float("inf"),
            )
            earliest = min(earliest, self._batcher.earliest_deadline)
        if earliest < self._alarm_at:
            self._set_alarm(earliest, self._clock())

    def _set_alarm(self, at: float, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        assert self._loop is not None
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.0, at - now), self._ring_alarm)

    def _ring_alarm(self) -> None:
        self._alarm, self._alarm_at = None, float("inf")
        now = self._clock()
        with self._lock:
            expired = self._batcher.expire(now)
            running = self._running.tickets if self._running is not None else ()
        self._tell_late(expired, "in the queue")
        late = [each for each in running if each.deadline_at <= now]
        self._tell_late(late, "while the model was computing")
        self._watch_deadlines()

    def _tell_late(self, late: Iterable[Pending], where: str) -> None:
        for pending in late:
            pending.settle(DeadlineExceeded(f"the deadline passed {where}"))

    # Either side.

    def _take(self, now: float, most: int | None = None) -> Batch[Pending] | None:
        batch = self._batcher.take(now, most)
        if batch is not None:
            self._running, self._running_since = batch, now
        return batch

    def _score(self, batch: Batch[Pending]) -> tuple[Sequence[Ended], BatchReport]:
        outcomes, report = score_batch(self.scorer, batch, self._running_since, self._clock)
        with self._lock:
            if report.runs == 1 and not report.failed:
                ended = self._running_since + report.compute
                follows = self._was_waited_for
                self._admission.observe(batch.rows, report.compute, ended, follows=follows)
            self._was_waited_for = self._batcher.queued_requests > 0
            backlog = Backlog(self._batcher.queued_rows)
            self._hint = self._admission.expected_wait(backlog, self._running_since)
        return outcomes, report

    # On the scoring thread.

    def _work(self) -> None:
        try:
            while (batch := self._next()) is not None:
                outcomes, report = self._score(batch) if batch.tickets else ((), None)
                self._on_loop(self._settle, batch, outcomes, report)
        finally:
            with self._lock:  # whatever ended this thread, nobody may queue for it any more
                self._is_closed = True

    def _next(self) -> Batch[Pending] | None:
        while True:
            hands_back = False
            with self._lock:
                self._running = None
                if self._is_closed:
                    return None
                if self._engine is _Engine.THREAD:
                    if self._batcher.can_take(self._admission.short_rows):
                        self._engine, hands_back = _Engine.TURN, True
                    elif batch := self._take(self._clock()):
                        return batch
                    else:
                        self._engine = _Engine.IDLE
            if hands_back:
                self._on_loop(self._turn)
            self._doorbell.get()

    def _on_loop(self, act: Callable[..., None], *given: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(act, *given)
        except RuntimeError:
            # The loop is closed: the process is leaving and nobody waits for this batch any more.
            if not self._loop.is_closed():
                raise
