"""Runs one client against one simulated fleet under one schedule of faults, and judges it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tierline._config import ClientConfig
from tierline._exceptions import CallError, ConfigurationError
from tierline.testing import answers, budgets, healing
from tierline.testing.beliefs import BeliefWatch
from tierline.testing.cancelling import give_up
from tierline.testing.client import SimClock, SimulatedClient
from tierline.testing.faults import (
    PROCESS_KINDS,
    Fault,
    FaultKind,
    Schedule,
    draw_schedule,
    kinds_named,
    write_schedule,
)
from tierline.testing.load import Load, PlannedCall, typical_load
from tierline.testing.loop import Deadlock, SimLoop
from tierline.testing.network import SimLink
from tierline.testing.nodes import NodeProfile
from tierline.testing.outcome import Outcome, Violation
from tierline.testing.privacy import logs, shows
from tierline.testing.trace import Trace
from tierline.testing.truth import MODEL
from tierline.testing.watch import CallWatch, Watch
from tierline.testing.whose import PINNED, WHOSE

CHAOS = 4.0  # seconds in which faults drawn by `simulate` begin and end
QUIET = 1.0  # seconds after the last call: whatever is still out by then has leaked
DEFAULT_CALLS = 40


# One's own property of a run: what is wrong with these outcomes, or None. Its name is the rule.
Property = Callable[[Sequence[Outcome]], str | None]


class PropertyFailed(AssertionError):
    """A property that must hold did not; the message reproduces the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides a run: with the same plan and seed, the same trace."""

    config: ClientConfig
    load: Load
    faults: Schedule = ()
    profiles: Mapping[str, NodeProfile] = field(default_factory=dict)  # by URL
    prepare: bool = False  # fetch description and prior before the first call
    must_heal_by: float | None = None  # calls begun later find everything mended: see `healing`
    properties: tuple[Property, ...] = ()  # one's own, beside those that always hold
    command: str = "tierline simulate"  # what runs such a plan again, given seed and schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run has shown."""

    seed: int | str
    plan: Plan
    outcomes: tuple[Outcome, ...]
    violations: tuple[Violation, ...]
    trace: Trace
    seen: Counter[str]  # what the run came by: edges, rungs, faults that struck
    attempts: int
    computed: int
    forbidden_bytes: int
    lasted: float  # virtual seconds

    @property
    def trace_hash(self) -> str:
        """The same for the same plan and seed, in any process."""
        return self.trace.digest()

    @property
    def reproduction(self) -> str:
        """The line that runs this again."""
        schedule = write_schedule(self.plan.faults)
        return f"{self.plan.command} --seed {self.seed} --schedule '{schedule}'"

    def check(self) -> Run:
        """Raise PropertyFailed unless every property held; returns the run."""
        if self.violations:
            shown = "\n  ".join(str(violation) for violation in self.violations[:5])
            raise PropertyFailed(
                f"{len(self.violations)} violation(s) with seed {self.seed}:\n  {shown}\n"
                f"reproduce: {self.reproduction}"
            )
        return self


def simulate(
    config: ClientConfig,
    *,
    faults: Schedule | Collection[str | FaultKind] = ("all",),
    seed: int | str = 0,
    load: Load | None = None,
    profiles: Mapping[str, NodeProfile] | None = None,
    properties: Sequence[Property] = (),
    command: str = "tierline simulate CONFIG",
) -> Run:
    """Run ``config`` in virtual time against a simulated endpoint for each of its addresses.

    ``faults`` are kinds to draw from ("all", "none", or names of FaultKind) or a ready Schedule;
    ``load`` None draws some forty ordinary calls; ``properties`` are your own, beside Tierline's.
    Call it outside of any running event loop.
    A property that did not hold raises nothing: see ``Run.violations`` and ``Run.check()``.
    """
    endpoints = [endpoint.url for tier in config.tiers for endpoint in tier.endpoints]
    schedule: Schedule
    if faults and all(isinstance(fault, Fault) for fault in faults):
        schedule = tuple(fault for fault in faults if isinstance(fault, Fault))
    else:
        kinds = kinds_named([str(name) for name in faults])
        schedule = draw_schedule(Random(f"{seed}/faults"), endpoints, until=CHAOS, kinds=kinds)
    if load is None:
        load = typical_load(Random(f"{seed}/load"), calls=DEFAULT_CALLS, until=CHAOS)
    plan = Plan(
        config=config,
        load=load,
        faults=schedule,
        profiles=profiles or {},
        properties=tuple(properties),
        command=command,
    )
    return run_plan(plan, seed=seed)


def run_plan(plan: Plan, *, seed: int | str) -> Run:
    """Carry out a plan. The seed decides every latency, draw, order and doubt."""
    return _Simulation(plan, seed).run()


class _Simulation:
    """One run in the making."""

    def __init__(self, plan: Plan, seed: int | str) -> None:
        _check_targets(plan)
        self._plan = plan
        self._seed = seed
        self._loop = SimLoop(seed)
        self._clock = SimClock(self._loop)
        self._trace = Trace()
        self._watch = Watch(plan.config, self._loop, self._clock, self._trace)
        self._rng = Random(f"{seed}/callers")
        self._process: dict[FaultKind, Fault] = {}
        self._stalls: list[tuple[float, float]] = []
        self._outcomes: list[Outcome] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._links = {
            endpoint.url: SimLink(
                endpoint.url,
                tier,
                plan.profiles.get(endpoint.url, default_profile(tier.kind)),
                loop=self._loop,
                seed=seed,
                witness=self._watch,
            )
            for tier in plan.config.tiers
            for endpoint in tier.endpoints
        }
        self._client = SimulatedClient(
            plan.config, clock=self._clock, seed=seed, transports=self._links
        )
        self._states = {state.url: state for state in self._client._fleet.endpoints()}
        self._beliefs = BeliefWatch(
            plan.config,
            self._client._fleet,
            self._watch,
            now=self._loop.time,
            clock=self._clock,
        )
        self._watch.beliefs = self._beliefs

    def run(self) -> Run:
        """Do it, judge it, and say what was seen."""
        watch = self._watch
        with logs() as lines:
            try:
                self._loop.run(self._main())
            except Deadlock as dead:
                watch.violated("no deadlock", str(dead))
        for line in lines:
            if any(shows(line, number) for number in watch.calls):
                watch.violated("sovereign", f"a log line names a private field: {line}")
        for complaint in self._loop.complaints:
            watch.violated("no error is dropped", complaint)
        self._judge()
        self._count()
        return Run(
            seed=self._seed,
            plan=self._plan,
            outcomes=tuple(self._outcomes),
            violations=tuple(watch.violations),
            trace=self._trace,
            seen=watch.seen,
            attempts=watch.attempts,
            computed=sum(link.node.computed for link in self._links.values()),
            forbidden_bytes=watch.forbidden_bytes,
            lasted=self._loop.time(),
        )

    # -- the run -----------------------------------------------------------------------------

    async def _main(self) -> None:
        loop, plan = self._loop, self._plan
        if plan.prepare:
            await self._client.prepare(MODEL)
        start = loop.time()
        for fault in plan.faults:
            loop.in_the_world(fault.start, self._strike, fault)
            loop.in_the_world(fault.start + fault.length, self._heal, fault)
        last = 0.0
        for planned in plan.load:
            loop.call_at(start + planned.at, self._spawn, planned)
            last = max(last, planned.at + (planned.deadline or plan.config.deadline))
        last = max([last, *(fault.start + fault.length for fault in plan.faults)])
        await asyncio.sleep(start + last + QUIET - loop.time())
        await self._client.aclose()  # a health probe may have been out till now
        self._check_idle()

    def _spawn(self, planned: PlannedCall) -> None:
        call = self._call(planned)
        if planned.given_up_at is not None:
            call = give_up(call, planned.given_up_at)
        task = self._loop.create_task(call, name=f"call {planned.number}")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, planned))
        cancel = self._process.get(FaultKind.CANCEL)
        if cancel is not None and self._rng.random() < cancel.size:
            self._watch.struck(FaultKind.CANCEL)
            span = planned.deadline or self._plan.config.deadline
            patience = self._rng.choice((0.0, 0.01, 0.1, 1.0)) * span * self._rng.random()
            self._loop.call_later(patience, task.cancel)

    def _ended(self, task: asyncio.Task[None], planned: PlannedCall) -> None:
        self._tasks.discard(task)
        if planned.number not in self._watch.calls:  # given up before its first step
            now = self._watch.begins(planned).began
            self._outcomes.append(Outcome(planned, now, now, None, None))

    async def _call(self, planned: PlannedCall) -> None:
        watched = self._watch.begins(planned)
        WHOSE.set(planned.number)
        PINNED.set(planned.version is not None)
        answer, error, request = None, None, planned.request
        settings = {
            "query": request.query,
            "deadline": planned.deadline,
            "key": planned.key,
            "mode": planned.mode,
            "version": planned.version,
            "traceparent": planned.traceparent,
            "sovereignty": planned.sovereignty,
            "criticality": planned.criticality,
        }
        try:
            if planned.k is not None:
                answer = await self._client.recommend(MODEL, k=planned.k, **settings)  # type: ignore[arg-type]  # named above
            else:
                assert request.candidates is not None
                answer = await self._client.score(MODEL, candidates=request.candidates, **settings)  # type: ignore[arg-type]  # as above
        except CallError as failed:
            error = failed
        finally:
            watched.over = True
            self._outcomes.append(Outcome(planned, watched.began, self._loop.time(), answer, error))
            name = self._outcomes[-1].name
            self._trace.add(self._loop.time(), "end", planned.number, name)
            self._beliefs.ended(planned.number)

    # -- faults ------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        self._trace.add(self._loop.time(), "fault", fault.kind, fault.target)
        self._watch.struck(fault.kind)
        if fault.kind not in PROCESS_KINDS:
            self._links[fault.target].strike(fault)
            return
        self._process[fault.kind] = fault
        if fault.kind is FaultKind.STALL:
            self._stalls.append((self._loop.time(), fault.length))
            self._loop.stall(fault.length)
        elif fault.kind is FaultKind.DRIFT:
            self._clock.drift(fault.size)

    def _heal(self, fault: Fault) -> None:
        self._trace.add(self._loop.time(), "healed", fault.kind, fault.target)
        if fault.kind not in PROCESS_KINDS:
            self._links[fault.target].heal(fault)
        elif self._process.get(fault.kind) is fault:
            del self._process[fault.kind]
            if fault.kind is FaultKind.DRIFT:
                self._clock.drift(1.0)

    # -- the verdict -------------------------------------------------------------------------

    def _check_idle(self) -> None:
        """Nothing is asked any more: nothing may be held any more."""
        watch = self._watch
        for url, link in self._links.items():
            if link.open:
                watch.violated("nothing leaks", f"{url}: {link.open} attempts are still out")
            if self._states[url].inflight:
                watch.violated("nothing leaks", f"{url}: in flight {self._states[url].inflight}")
        if self._tasks:
            names = sorted(task.get_name() for task in self._tasks)
            watch.violated("every call ends", f"still running: {names}")
        self._beliefs.look()

    def _judge(self) -> None:
        watch, plan = self._watch, self._plan
        if len(self._outcomes) != len(plan.load) and not watch.violations:
            watch.violated("one end a call", f"{len(plan.load)} calls, {len(self._outcomes)} ends")
        keyed: dict[str, list[CallWatch]] = {}
        for outcome in self._outcomes:
            call = outcome.call
            earlier = keyed.setdefault(call.key or repr(call.history), [])
            watched = watch.calls[call.number]
            for rule, message in answers.complaints(
                outcome, watched, plan.config, self._links, earlier, self._grace(outcome)
            ):
                watch.violations.append(Violation(outcome.ended, rule, message))
            if outcome.answer is not None:
                earlier.append(watched)
        raised = [outcome.error for outcome in self._outcomes if outcome.error is not None]
        if len({id(error) for error in raised}) != len(raised):
            watch.violated("every error is a new one", "an exception was raised for two calls")
        self._judge_healing()
        for own in plan.properties:
            wrong = own(self._outcomes)
            if wrong is not None:
                watch.violated(own.__name__, wrong)
        for rule, message in budgets.complaints(self._outcomes, plan.config):
            watch.violations.append(Violation(self._loop.time(), rule, message))

    def _judge_healing(self) -> None:
        by, config = self._plan.must_heal_by, self._plan.config
        if by is None:
            return
        escalates = config.retry.attempts > 1  # the escalation is the second
        fast = config.ejection.panic == "fail"
        for rule, message in healing.complaints(
            self._outcomes, by, escalates=escalates, fails_fast=fast
        ):
            self._watch.violated(rule, message)
        if healing.has_resumed(self._outcomes, by):
            self._watch.seen["escalation resumed"] += 1

    def _grace(self, outcome: Outcome) -> float:
        """What stalls and a drifting clock may have cost this call."""
        cost = 0.02 * (outcome.ended - outcome.began)
        for at, length in self._stalls:
            if outcome.began <= at + length and at <= outcome.ended:
                cost += length
        return cost

    def _count(self) -> None:
        seen = self._watch.seen
        for outcome in self._outcomes:
            seen[f"end {outcome.name}"] += 1
            if outcome.answer is not None:
                seen[f"reason {outcome.answer.reason}"] += 1
            for attempt in outcome.attempts:
                seen[f"attempt {attempt.kind} {attempt.outcome}"] += 1


def _check_targets(plan: Plan) -> None:
    known = {endpoint.url for tier in plan.config.tiers for endpoint in tier.endpoints}
    for fault in plan.faults:
        placed = fault.target == "" if fault.kind in PROCESS_KINDS else fault.target in known
        if not placed:
            where = fault.target or "no endpoint"
            message = f"{fault.kind} strikes {where}, which is not in the configuration"
            raise ConfigurationError(message, key="faults")


def default_profile(kind: str) -> NodeProfile:
    """How a healthy endpoint of this kind of tier behaves unless told otherwise."""
    if kind == "edge":
        return NodeProfile()
    return NodeProfile(workers=8, compute=0.012, network=0.004, doubt=0.0)
