"""Carries requests to one scorer and their answers back; batcher and admission decide, this acts.

Nothing polls. A batch that is known to be over at once is scored on the event loop itself, after
what the loop has read in this turn: handing it to another thread and back would cost more than it
takes. Any other batch is scored on one thread, which sleeps until it is rung for and takes the next
batch itself, so that the scorer never waits for the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue

from tierline import CallError, DeadlineExceeded, Unavailable
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.admission import Backlog
from tierline_serving.batching.alarm import Alarm
from tierline_serving.batching.batcher import Batch, Batcher
from tierline_serving.batching.door import Door
from tierline_serving.batching.isolation import Outcome as Ended
from tierline_serving.batching.limits import DEFAULT, BatchLimits
from tierline_serving.batching.parts import into_parts
from tierline_serving.batching.pending import Done, Outcome, Pending, earliest_deadline, teller
from tierline_serving.batching.place import READ_LEAST, Engine, Place, Took, reading_time
from tierline_serving.batching.scoring import BatchReport, score_batch, thread_waits
from tierline_serving.outbox import Outbox
from tierline_serving.scorer import Scorer

__all__ = ["BatchReport", "Runner"]

Clock = Callable[[], float]
Overtaken = Sequence[tuple[Pending, CallError]]
_PASSED = "the deadline passed while the batch was retried"
SWITCH_INTERVAL = 0.0005  # seconds the scoring thread waits at most for the interpreter's lock


class Runner:
    """Answers requests with one scorer. Create, ``start`` and use it on one event loop.

    ``clock`` tells monotonic seconds, ``thread_clock`` and ``waits`` the CPU seconds of the thread
    that asks and how often it let go of its core; ``on_batch`` is called on the loop after each
    batch, ``on_turn`` with the seconds it kept the loop; ``outbox`` holds a batch's answers.
    """

    def __init__(
        self,
        scorer: Scorer,
        limits: BatchLimits | None = None,
        *,
        clock: Clock = time.monotonic,
        thread_clock: Clock = time.thread_time,
        waits: Callable[[], int] = thread_waits,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_turn: Callable[[float], None] | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.scorer = scorer
        self.limits = limits or BatchLimits()
        self._clock, self._thread_clock, self._waits = clock, thread_clock, waits
        self._on_batch, self._on_turn = on_batch, on_turn
        self._outbox = outbox or Outbox()
        self._lock = threading.Lock()  # guards all that follows, up to the doorbell
        self._batcher: Batcher[Pending] = Batcher(self.limits)
        self._door = Door(self._batcher)
        self._was_waited_for = False  # whether the next batch waited while the last one ran
        self._hint = 0.0
        self._running: Batch[Pending] | None = None
        self._running_since = 0.0
        self._place = Place(self.limits.max_batch_rows)
        self._engine = Engine.IDLE
        self._turn_from = 0.0  # since when callers are read
        self._read_most = READ_LEAST  # seconds they may be, until the next batch
        self._is_turn_due = False  # scheduled on the loop
        self._is_closed = False
        self._doorbell: SimpleQueue[None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm = Alarm(self._end_late)
        self._worker = threading.Thread(
            target=self._work, name=f"scoring-{scorer.info.name}", daemon=True
        )

    def start(self) -> None:
        """Start the scoring thread. Call it once, on the loop that will submit."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
        self._worker.start()

    @property
    def is_alive(self) -> bool:
        """Whether the scoring thread is there to answer."""
        return self._worker.is_alive() and not self._is_closed

    @property
    def unanswered(self) -> int:
        """Requests queued or being scored now."""
        with self._lock:
            running = len(self._running.tickets) if self._running is not None else 0
            return self._batcher.queued_requests + running

    def expected_wait(self) -> float:
        """Predicted seconds in the queue for a request arriving now."""
        with self._lock:
            return self._door.admission.expected_wait(self._backlog(), self._clock())

    @property
    def wait_hint(self) -> float:
        """``expected_wait`` as it was when the last batch ended: what its answers carry."""
        return self._hint

    def foresee(
        self, size: int, deadline_at: float, now: float, criticality: str
    ) -> CallError | None:
        """Why a request of ``size`` bytes, not read yet, would be refused; None: it may enter."""
        now = self._turn_if_due(now)
        with self._lock:
            return self._door.foresee(size, deadline_at, self._backlog(), now, criticality)

    def _turn_if_due(self, now: float) -> float:
        """Score a batch when callers were read long enough since the last one; the time then."""
        if self._engine is Engine.TURN and now - self._turn_from > self._read_most:
            self._turn()
            return self._clock()
        return now

    async def submit(self, request: ScoreRequest, deadline_at: float) -> ScoreReply:
        """Score a validated request; ``timings`` of the reply gain ``queue`` and ``compute``.

        Raises DeadlineExceeded when the deadline passes first, Overloaded when it cannot be met or
        the queue is full, Unavailable after ``close``, and whatever the scorer raised for this
        request. Cancelling the caller takes the request out of the queue.
        """
        answered: asyncio.Future[ScoreReply] = asyncio.get_running_loop().create_future()
        pending = self.enter(request, deadline_at, teller(answered))
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
        now = self._turn_if_due(self._clock())
        pending = Pending(request, self.scorer.rows(request), deadline_at, now, done)
        if pending.rows > self.limits.max_batch_rows:
            into_parts(pending, self.scorer.rows, self.limits.max_batch_rows, self._joined)
        with self._lock:
            overtaken = self._admit(pending, now, caller, criticality)
            takes_turn = self._engine is Engine.IDLE
            if takes_turn:
                self._engine = Engine.TURN
                self._turn_from = now
            is_threaded = self._engine is Engine.THREAD
        if takes_turn:
            self._schedule_turn(loop)
        elif is_threaded:
            self._alarm.arm(loop, deadline_at, now)
        for each, error in overtaken:
            each.settle(error)
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
            self._door.forget_costs()

    def abandon(self, reason: str) -> int:
        """Refuse new work and fail all that is unanswered with Unavailable(reason); how many."""
        with self._lock:
            self._is_closed = True
            self._alarm.silence()
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
        if self._worker.ident is not None:
            self._worker.join(timeout)
        if self._worker.is_alive():
            return False
        self.scorer.close()
        return True

    # On the loop.

    def _joined(self, whole: Pending, outcome: Outcome) -> None:
        """A request in parts is answered, or one part failed and the others are not wanted."""
        done = whole.done
        if done is not None:
            self.leave(whole)
            done(whole, outcome)

    def _admit(self, pending: Pending, now: float, caller: str, criticality: str) -> Overtaken:
        """Queue it; who leaves the queue for it, and what they are told."""
        if self._is_closed:
            raise Unavailable("the endpoint is shutting down; ask another")
        error = self._door.admit(pending, self._backlog(), now, caller, criticality)
        if error is not None:
            raise error
        return self._door.overtaken(self._backlog(), now, criticality)

    def _backlog(self) -> Backlog:
        running = self._running.rows if self._running is not None else 0
        return Backlog(self._batcher.queued_rows, running, self._running_since)

    def _schedule_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """One turn to come, however many were taken early: they must not add up, or the loop
        would score batch after batch before it reads again."""
        if not self._is_turn_due:
            self._is_turn_due = True
            loop.call_soon(self._due_turn)

    def _due_turn(self) -> None:
        """The turn that was scheduled, if there is still something for it."""
        is_due, self._is_turn_due = self._is_turn_due, False
        if is_due and self._engine is Engine.TURN:
            self._turn()

    def _turn(self) -> None:
        """Score one batch here and now, or ring for the thread."""
        with self._lock:
            if self._is_closed:
                return
            now = self._clock()
            batch = self._take(now, self._inline_rows(now))
            if batch is None and self._batcher.queued_requests:
                self._engine = Engine.THREAD
            elif batch is None:
                self._engine = Engine.IDLE
        if batch is not None:
            self._score_here(batch)
        elif self._engine is Engine.THREAD:
            self._doorbell.put(None)
            self._watch_deadlines()

    def _score_here(self, batch: Batch[Pending]) -> None:
        began, cpu, waits = self._running_since, self._thread_clock(), self._waits()
        outcomes, report = self._score(batch) if batch.tickets else ((), None)
        with self._lock:
            self._running = None
            now = self._clock()
            if report is not None and report.runs == 1:
                took = Took(report.compute, self._thread_clock() - cpu, self._waits() - waits)
                self._place.on_loop(batch.rows, took, now)
            goes_on = self._batcher.queued_requests > 0 and not self._is_closed
            self._engine = Engine.TURN if goes_on else Engine.IDLE
        if goes_on and self._loop is not None:
            self._schedule_turn(self._loop)  # the loop reads and refuses in between
        self._settle(batch, outcomes, report)
        self._turn_from = self._clock()
        turn = self._turn_from - began
        self._read_most = reading_time(turn)
        if self._on_turn is not None:
            self._on_turn(turn)

    def _settle(
        self, batch: Batch[Pending], outcomes: Sequence[Ended], report: BatchReport | None
    ) -> None:
        self._outbox.hold()
        try:
            self._tell_late(batch.expired, "in the queue")
            for place, pending in enumerate(batch.tickets):
                pending.settle(outcomes[place] or DeadlineExceeded(_PASSED))
        finally:
            self._outbox.release()
        if report is not None and self._on_batch is not None:
            self._on_batch(report)

    # Deadlines that pass while the thread computes. On the loop itself nothing can pass unseen: a
    # batch there is short, and the queue is looked through before the next.

    def _watch_deadlines(self) -> None:
        with self._lock:
            running = self._running.tickets if self._running is not None else ()
            earliest = min(earliest_deadline(running), self._batcher.earliest_deadline)
        assert self._loop is not None
        self._alarm.arm(self._loop, earliest, self._clock())

    def _end_late(self) -> None:
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

    def _inline_rows(self, now: float) -> int:
        rows = self._place.inline_rows(now)
        self._door.admission.batch_rows = rows or self.limits.max_batch_rows
        return rows

    def _take(self, now: float, most: int | None = None) -> Batch[Pending] | None:
        batch = self._batcher.take(now, most)
        if batch is not None:
            self._door.drained()
            self._running, self._running_since = batch, now
        return batch

    def _score(self, batch: Batch[Pending]) -> tuple[Sequence[Ended], BatchReport]:
        outcomes, report = score_batch(self.scorer, batch, self._running_since, self._clock)
        with self._lock:
            if report.runs == 1 and not report.failed:
                ended = self._running_since + report.compute
                follows = self._was_waited_for
                self._door.admission.observe(batch.rows, report.compute, ended, follows=follows)
            self._was_waited_for = self._batcher.queued_requests > 0
            backlog = Backlog(self._batcher.queued_rows)
            self._hint = self._door.admission.expected_wait(backlog, self._running_since)
        return outcomes, report

    # On the scoring thread.

    def _work(self) -> None:
        try:
            while (batch := self._next()) is not None:
                began = self._thread_clock()
                outcomes, report = self._score(batch) if batch.tickets else ((), None)
                if report is not None and report.runs == 1:
                    with self._lock:
                        cpu = self._thread_clock() - began
                        self._place.on_thread(batch.rows, cpu, report.compute)
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
                if self._engine is Engine.THREAD:
                    if self._batcher.can_take(self._inline_rows(self._clock())):
                        self._engine, hands_back = Engine.TURN, True
                        self._turn_from, self._is_turn_due = self._clock(), True
                    elif batch := self._take(self._clock()):
                        return batch
                    else:
                        self._engine = Engine.IDLE
            if hands_back:
                self._on_loop(self._due_turn)
            self._doorbell.get()

    def _on_loop(self, act: Callable[..., None], *given: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(act, *given)
        except RuntimeError:
            # The loop is closed: the process is leaving and nobody waits for this batch any more.
            if not self._loop.is_closed():
                raise
