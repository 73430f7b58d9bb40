"""The use cases of an endpoint, whatever protocol carries them: score, models, prior, metadata."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

from tierline import (
    CallError,
    Criticality,
    DeadlineExceeded,
    FrameError,
    ModelFailed,
    ModelNotFound,
    Unavailable,
    __version__,
)
from tierline.deadline import Deadline
from tierline.wire import Limits, ScoreReply, ScoreRequest
from tierline.wire.headers import read_headers
from tierline_serving.admission import Shed
from tierline_serving.answers import Answer, Buffer, refusal, scored, shed
from tierline_serving.batching.pending import Done, Outcome, Pending, teller
from tierline_serving.form import is_compiled
from tierline_serving.front.bodies import BodyBudget
from tierline_serving.front.layouts import Layouts
from tierline_serving.front.replies import Replies
from tierline_serving.front.turns import Turns
from tierline_serving.lifecycle import Lifecycle
from tierline_serving.metrics import Metrics
from tierline_serving.outbox import Outbox
from tierline_serving.said import NEVER, Said, said_by
from tierline_serving.scorer import ModelInfo
from tierline_serving.served import Generation, Served
from tierline_serving.settings import ServerSettings
from tierline_serving.tracing import Tracing, attributes


@dataclass
class Measured:
    """How a request ended: "ok", an error code, or "cancelled"; and what its headers said."""

    code: str = "cancelled"
    queue: float | None = None
    reason: str | None = None
    said: Said | None = None


class Handlers:
    """Answers decoded and encoded requests for every model of this endpoint."""

    def __init__(
        self,
        served: Served,
        settings: ServerSettings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        turns: Turns | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._served = served
        self._default_timeout = settings.default_timeout
        self._max_timeout = settings.max_timeout
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._clock = clock
        self.bodies = BodyBudget(settings.max_held_bytes)
        self.turns = turns or Turns()
        self.outbox = outbox or Outbox()
        self.replies = Replies()
        self._tracing = Tracing.find()
        self._layouts = Layouts(Limits(max_frame_bytes=settings.max_body_bytes))

    def meet(self, headers: Mapping[str, str], size: int, arrived_at: float) -> Said | Answer:
        """What the headers of a native call say (names in lower case), or the answer it gets on
        their account alone: its body of ``size`` bytes need not be read then. Counted.

        ``arrived_at`` is when the request's head came: the deadline counts from there, since the
        caller's clock has run on while the body came in.
        """
        try:
            said = said_by(read_headers(headers, now=arrived_at))
        except CallError as error:
            return self._turned_away(error, arrived_at, None)
        return self.welcome(said, size, arrived_at)

    def welcome(self, said: Said, size: int, arrived_at: float) -> Said | Answer:
        """``meet`` for headers that were read already."""
        error = self._foreseen(said, size, arrived_at)
        return said if error is None else self._turned_away(error, arrived_at, said)

    def _turned_away(self, error: CallError, arrived_at: float, said: Said | None) -> Answer:
        request_id = None if said is None else said.request_id
        answer = shed(error, request_id) if type(error) is Shed else refusal(error, request_id)
        self._metrics.began()
        self.count(answer, arrived_at, said)
        return answer

    def foresee(
        self, said: Said, size: int, arrived_at: float, timeout: float | None = None
    ) -> None:
        """Raise the CallError a request of ``size`` bytes would end with, whatever it asks, as far
        as its headers tell: too late, nobody here to answer, too much waiting before it."""
        error = self._foreseen(said, size, arrived_at, timeout)
        if error is not None:
            raise error.with_traceback(None)  # several callers may be told the same one

    def _foreseen(
        self, said: Said, size: int, arrived_at: float, timeout: float | None = None
    ) -> CallError | None:
        at = self._deadline_at(said, arrived_at, timeout)
        now = self._clock()
        if now >= at:
            return DeadlineExceeded("the deadline had passed when the request arrived")
        if not self._lifecycle.takes_work:
            return Unavailable(f"the endpoint is {self._lifecycle.phase.value}; ask another")
        worst: CallError | None = None
        for generation in self._served.answering():
            error = generation.runner.foresee(size, at, now, said.criticality)
            if error is None:
                return None
            worst = error
        return worst

    async def score_frame(
        self, frame: Buffer, said: Said, arrived_at: float, caller: str = ""
    ) -> Answer:
        """Answer one request frame; errors come back as frames too, never as exceptions."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer) -> None:
            if not answered.done():  # cancelled in the same turn
                answered.set_result(answer)

        call = self.begin_frame(frame, said, arrived_at, done, caller)
        try:
            return await answered
        except asyncio.CancelledError:
            call.leave()
            raise

    def begin_frame(
        self,
        frame: Buffer,
        said: Said,
        arrived_at: float,
        done: Callable[[Answer], None],
        caller: str = "",
        start: int = 0,
    ) -> FrameCall:
        """``score_frame`` without a task: ``done`` is told the answer once, perhaps before this
        returns; nothing is raised. ``leave`` what comes back when the caller hangs up. ``said`` is
        what ``meet`` made of the headers, ``caller`` whom a batch is shared with evenly, ``start``
        where in ``frame`` it begins."""
        return FrameCall(self, frame, said, arrived_at, done, caller, start)

    def count(self, answer: Answer | None, arrived_at: float, said: Said | None) -> None:
        """Count a native call that has ended, with no answer when the caller has gone."""
        if answer is None:
            self._ended("cancelled", None, None, said, arrived_at)
        else:
            queue = None if answer.bundle is None else answer.queue
            self._ended(answer.code, answer.reason, queue, said, arrived_at)

    def _ended(
        self,
        code: str,
        reason: str | None,
        queue: float | None,
        said: Said | None,
        arrived_at: float,
    ) -> None:
        seconds = self._clock() - arrived_at
        self._metrics.ended(code, seconds, queue, reason)
        if self._tracing is not None:
            known = said or Said()
            about = attributes(code, reason, queue, known.request_id)
            self._tracing.ended(known.traceparent, seconds, about)

    @contextmanager
    def measured(self, arrived_at: float) -> Iterator[Measured]:
        """Count a request of a guest protocol; fill in what its headers said and how it ended."""
        self._metrics.began()
        ended = Measured()
        try:
            yield ended
        finally:
            self._ended(ended.code, ended.reason, ended.queue, ended.said, arrived_at)

    async def score(
        self,
        request: ScoreRequest,
        deadline: Deadline,
        *,
        caller: str = "",
        criticality: Criticality = Criticality.DEFAULT,
    ) -> ScoreReply:
        """Answer one request by its deadline. Raises CallError, and what a broken scorer raises."""
        answered: asyncio.Future[ScoreReply] = asyncio.get_running_loop().create_future()
        entered = self.enter(request, deadline.at, teller(answered), caller, criticality)
        try:
            return await answered
        except asyncio.CancelledError:
            entered.leave()
            raise

    def enter(
        self,
        request: ScoreRequest,
        deadline_at: float,
        told: Done,
        caller: str = "",
        criticality: Criticality = Criticality.DEFAULT,
    ) -> Entered:
        """Check a request and queue it; ``told`` gets its outcome once, later, on the loop. The
        generation it asks for is held until then. Raises CallError."""
        if self._clock() >= deadline_at:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        if not self._lifecycle.takes_work:
            raise Unavailable(f"the endpoint is {self._lifecycle.phase.value}; ask another")
        generation = self._served.find(request.model, request.version)
        runner = generation.runner
        runner.scorer.validate(request)
        entered = Entered(generation, told)
        entered.pending = runner.enter(
            request, deadline_at, entered.ended, caller=caller, criticality=criticality
        )
        generation.calls += 1
        return entered

    def deadline(self, said: Said, arrived_at: float, timeout: float | None = None) -> Deadline:
        """When the answer must be there: what the caller said, within what this endpoint grants.

        ``timeout`` (seconds) is a limit the request's body names; it may only shorten.
        """
        return Deadline(self._deadline_at(said, arrived_at, timeout))

    def _deadline_at(self, said: Said, arrived_at: float, timeout: float | None = None) -> float:
        at = arrived_at + self._default_timeout
        if said.deadline_at != NEVER:
            at = min(said.deadline_at, arrived_at + self._max_timeout)
        elif timeout is not None:
            at = arrived_at + min(timeout, self._max_timeout)
        return at if timeout is None else min(at, arrived_at + timeout)

    def expected_wait(self, model: str) -> float:
        """Seconds a request arriving now would wait in the queue. Raises ModelNotFound."""
        return self._served.find(model).runner.expected_wait()

    def models(self) -> list[ModelInfo]:
        """The models served now, each in the bundle that answers."""
        return [generation.info for generation in self._served.answering()]

    def versions(self, name: str) -> list[ModelInfo]:
        """Every loaded bundle of a model, the one that answers first."""
        return [each.info for each in self._served if each.info.name == name]

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        """One model, in the bundle a version names (None: the one that answers). Raises
        ModelNotFound."""
        return self._served.find(name, version).info

    def prior(self, name: str) -> ScoreReply:
        """The popularity prior of a model. Raises ModelNotFound, also when it has none."""
        reply = self._served.find(name).prior
        if reply is None:
            raise ModelNotFound(f"model {name!r} has no popularity prior")
        return reply

    def metadata(self) -> dict[str, object]:
        """What this endpoint is, as JSON values."""
        return {
            "name": "tierline",
            "version": __version__,
            "compiled": is_compiled(),
            "phase": self._lifecycle.phase.value,
            "models": [as_json(info) for info in self.models()],
        }

    @property
    def is_ready(self) -> bool:
        """Whether a balancer should send work here."""
        answering = self._served.answering()
        return self._lifecycle.is_ready and all(each.runner.is_alive for each in answering)

    @property
    def asks_to_leave(self) -> bool:
        return self._lifecycle.asks_to_leave

    def metrics_text(self) -> bytes:
        """The Prometheus text of this endpoint."""
        waits = {each.info.name: each.runner.expected_wait() for each in self._served.answering()}
        return self._metrics.render(ready=self.is_ready, models=self.models(), waits=waits)


class Entered:
    """A request in a runner's queue, and its hold on the generation that answers it."""

    __slots__ = ("_generation", "_told", "pending")

    def __init__(self, generation: Generation, told: Done) -> None:
        self._generation = generation
        self._told = told
        self.pending: Pending | None = None

    def ended(self, pending: Pending, outcome: Outcome) -> None:
        """The runner's answer: the generation is let go, then the caller told."""
        self._generation.__exit__(None, None, None)
        told, self._told = self._told, _nobody  # no circle is left for the garbage collector
        told(pending, outcome)

    def leave(self) -> None:
        """The caller has gone: nobody is told the outcome. Once, and not after it was told."""
        if self.pending is not None and self._generation.runner.leave(self.pending):
            self._generation.__exit__(None, None, None)

    @property
    def wait_hint(self) -> float:
        """Seconds a request arriving now would wait there."""
        return self._generation.runner.wait_hint


class FrameCall:
    """One native call from its frame to its answer; counted when it ends, however it does."""

    __slots__ = ("_arrived_at", "_done", "_entered", "_handlers", "_said")

    def __init__(
        self,
        handlers: Handlers,
        frame: Buffer,
        said: Said,
        arrived_at: float,
        done: Callable[[Answer], None],
        caller: str,
        start: int,
    ) -> None:
        self._handlers = handlers
        self._arrived_at = arrived_at
        self._done: Callable[[Answer], None] | None = done
        self._said = said
        self._entered: Entered | None = None
        handlers._metrics.began()
        try:
            at = handlers._deadline_at(said, arrived_at)
            request = handlers._layouts.decode(frame, start)
            self._entered = handlers.enter(request, at, self._ended, caller, said.criticality)
        except Exception as error:  # the shell's edge: told to the caller
            self._tell(refusal(error, said.request_id))

    def leave(self) -> None:
        """The caller has hung up: nothing more is done for him."""
        if self._done is None:
            return
        self._done = None
        if self._entered is not None:
            self._entered.leave()
        self._handlers.count(None, self._arrived_at, self._said)

    def _ended(self, ended: Pending, outcome: Outcome) -> None:
        if self._done is not None:
            self._tell(self._answer(ended, outcome))

    def _tell(self, answer: Answer) -> None:
        done, self._done = self._done, None
        self._handlers.count(answer, self._arrived_at, self._said)
        if done is not None:
            done(answer)

    def _answer(self, ended: Pending, outcome: Outcome) -> Answer:
        request_id = self._said.request_id
        if not isinstance(outcome, ScoreReply):
            return refusal(outcome, request_id)
        queue, compute = ended.queue, ended.compute
        try:
            frame = self._handlers.replies.encode(outcome, queue, compute)
        except FrameError as error:  # the scorer's fault, not the caller's
            return refusal(ModelFailed(f"the model's answer is none: {error}"), request_id)
        wait = 0.0 if self._entered is None else self._entered.wait_hint
        return scored(frame, request_id, wait, outcome.bundle, queue, compute)


def _nobody(ended: Pending, outcome: Outcome) -> None:
    """Stands for a caller who was told."""


def as_json(info: ModelInfo) -> dict[str, object]:
    """A ModelInfo as JSON values."""
    values: dict[str, object] = {item.name: getattr(info, item.name) for item in fields(info)}
    values["inputs"] = [dict(spec) for spec in info.inputs]
    values["details"] = dict(info.details)
    return values
