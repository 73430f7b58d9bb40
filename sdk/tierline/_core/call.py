"""One call as a machine: events go in (begin, success, failure, wake, cancel), commands come out.

The order of composition, fixed: deadline ▸ fallback ▸ escalation ▸ budgeted retry and hedge ▸
choice of endpoint ▸ breaker ▸ attempt timeout ▸ transport.
"""

from __future__ import annotations

from tierline import _exceptions as errors
from tierline._config import Mode, Sovereignty
from tierline._core import escalation as escalating
from tierline._core.commands import CancelAttempt, Command, Finish, StartAttempt, WakeAt
from tierline._core.dice import Dice
from tierline._core.endings import final_error, wrong_answer
from tierline._core.fallback import prior_reply
from tierline._core.fleet import Fleet, TierState
from tierline._core.hedging import hedge_after
from tierline._core.retrying import Fault, backoff, fault_of, outcome_name, wants_retry
from tierline._core.running import Running
from tierline._core.sovereignty import gate_for, withheld
from tierline._types import QUALITY_DEGRADED, QUALITY_EDGE, QUALITY_FULL, Answer, Attempt
from tierline.wire.messages import CANDIDATE_IDS, ScoreReply, ScoreRequest

FREE_FAILOVERS = 2  # attempts that never left are not counted against the budget, up to here
TIMEOUT_FACTOR = 3.0  # × the tier's 99th percentile: a slow attempt leaves time for another
RESERVE = 0.001  # seconds before the deadline at which the last attempt is given up
TIMEOUT_FLOOR = 0.010  # seconds; a scheduler hiccup on the other side is not a failure


class ScoreCall:
    """One call. A shell feeds it events and does what it says; after Finish it says nothing more.

    You must report every StartAttempt exactly once (success or failure) unless CancelAttempt took
    it back or ``cancel`` ended the call, and call ``wake`` at the instants it asks for.
    """

    __slots__ = (
        "_attempts",
        "_begun",
        "_call_id",
        "_deadline",
        "_dice",
        "_escalated",
        "_finished",
        "_fleet",
        "_free",
        "_gate",
        "_held",
        "_held_tier",
        "_key",
        "_last_error",
        "_mode",
        "_refusal",
        "_request",
        "_route",
        "_running",
        "_sleeping_until",
        "_started",
        "_tiers",
        "_tried",
    )

    def __init__(
        self,
        request: ScoreRequest,
        fleet: Fleet,
        *,
        deadline: float,
        mode: Mode,
        key: str | None,
        call_id: str,
        dice: Dice,
        sovereignty: Sovereignty | None = None,
    ) -> None:
        """``deadline`` is the absolute instant by which the call ends; ``sovereignty`` narrows the
        client's own policy for this call."""
        self._tiers = fleet.permitted
        if sovereignty is not None:
            self._tiers = [t for t in self._tiers if sovereignty.permits(t.config)]
        self._gate = gate_for(fleet.config.sovereignty, sovereignty, request)
        if self._gate is not None:
            self._tiers = [tier for tier in self._tiers if self._gate.asks(tier.config)]
        self._request = request
        self._fleet = fleet
        self._deadline = deadline
        self._mode = mode
        self._key = key
        self._call_id = call_id
        self._dice = dice
        self._begun = 0.0
        self._route: list[TierState] = []
        self._running: dict[int, Running] = {}
        self._attempts: list[Attempt] = []
        self._started = 0
        self._tried: dict[str, list[str]] = {}
        self._free = 0
        self._escalated = False
        self._held: ScoreReply | None = None
        self._held_tier = ""
        self._refusal = ""
        self._last_error: errors.TierlineError | None = None
        self._sleeping_until: float | None = None
        self._finished = False

    # -- events ------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Command]:
        self._begun = now
        if not self._tiers:
            return self._fail(errors.NotPermitted("the data policy permits no tier at all"), now)
        self._route = list(self._tiers)
        if self._mode is not Mode.SEQUENTIAL:
            wants_edge = self._mode is Mode.EDGE_ONLY
            self._route = [tier for tier in self._tiers if tier.is_edge is wants_edge]
        self._fleet.calls.add(now)
        return self._next_attempt("first", now)

    def attempt_succeeded(self, number: int, reply: ScoreReply, now: float) -> list[Command]:
        running = self._running.get(number)
        if running is None:
            return []
        wrong = wrong_answer(self._request, reply)
        if wrong is not None:
            return self.attempt_failed(number, wrong, now)
        self._settle(number, running, "ok", now)
        latency = now - running.started
        running.breaker.succeeded(running.permit, now)
        running.endpoint.latency.observe(latency, now)
        running.tier.latencies(self._request.model).observe(latency)
        if self._finished:
            return []
        if running.tier.is_edge and self._mode is Mode.SEQUENTIAL:
            return self._keep_or_escalate(running, reply, now)
        quality = QUALITY_EDGE if running.tier.is_edge else QUALITY_FULL
        return self._answer(reply, running.tier.name, quality, self._reason(running), now)

    def attempt_failed(self, number: int, error: errors.TierlineError, now: float) -> list[Command]:
        running = self._running.get(number)
        if running is None:
            return []
        if self._gate is not None:
            error = withheld(error)
        self._settle(number, running, outcome_name(error), now)
        fault = fault_of(error)
        breaker = running.breaker
        if fault in (Fault.ENDPOINT, Fault.NEVER_SENT):
            breaker.failed(running.permit, now, self._dice.random())
            # A failure is as bad as a full timeout: a fast-failing endpoint must not look fast.
            running.endpoint.latency.observe(self._deadline - self._begun, now)
        else:
            breaker.released(running.permit)
        if self._finished:
            return []
        self._last_error = error
        if fault is Fault.CALLER and self._held is None:
            return self._fail(error, now)
        if self._running:  # a hedge is still out
            return []
        return self._after_failure(running, error, now)

    def wake(self, now: float) -> list[Command]:
        """The instant of a WakeAt has come: back off is over, or a hedge is due."""
        if self._finished or self._sleeping_until is None or now < self._sleeping_until:
            return []
        self._sleeping_until = None
        if not self._running:
            return self._next_attempt("retry", now)
        return self._hedge(now)

    def cancel(self, now: float) -> list[Command]:
        """The caller has gone: neutral for every endpoint, and nothing is owed any more."""
        self._finished = True
        return self._drop_running(now)

    # -- decisions ---------------------------------------------------------------------------

    def _next_attempt(self, kind: str, now: float) -> list[Command]:
        """Start an attempt at the first tier of the route that has anyone to ask."""
        while self._route:
            tier = self._route[0]
            command = self._start(kind, tier, now)
            if command is not None:
                return command
            self._route.pop(0)
            if kind == "first" and self._started == 0:
                continue
            kind = "escalation" if self._held is not None else "failover"
        return self._give_up(now)

    def _start(self, kind: str, tier: TierState, now: float) -> list[Command] | None:
        policy = self._fleet.config.retry
        tried = self._tried.setdefault(tier.name, [])
        remaining = self._deadline - now
        if remaining < escalating.START_GATE or self._started >= policy.attempts:
            return None
        if len(tried) >= policy.per_tier:
            return None
        avoid = tried if len(tried) < len(tier.endpoints) else ()
        endpoint = tier.pick(self._request.model, avoid, self._key, now, self._dice)
        if endpoint is None or not self._may_spend(kind, now):
            return None
        timeout_at = self._timeout_at(tier, now)
        breaker = endpoint.breaker(self._request.model)
        permit = breaker.acquire(now, timeout_at - now)
        if permit is None:
            return None
        if kind == "retry" and endpoint.url not in tried:
            kind = "failover"
        self._started += 1
        number = self._started
        tried.append(endpoint.url)
        endpoint.inflight += 1
        view = None if self._gate is None else self._gate.view(tier.config)
        reduced = () if view is None else view.reduced
        self._running[number] = Running(kind, tier, endpoint, breaker, permit, now, reduced)
        start = StartAttempt(number, kind, endpoint, timeout_at, view)
        return [start, *self._plan_hedge(tier, now)]

    def _may_spend(self, kind: str, now: float) -> bool:
        """A call's first attempt is free and its first escalation has its own budget; whatever
        comes after either draws on the budget of retries."""
        if self._started == 0:
            return True
        if kind == "escalation" and not self._escalated:
            self._escalated = True
            return True
        never_sent = isinstance(self._last_error, errors.ConnectFailed)
        if kind != "hedge" and never_sent and self._free < FREE_FAILOVERS:
            self._free += 1
            return True
        return self._fleet.retries.withdraw(now)

    def _timeout_at(self, tier: TierState, now: float) -> float:
        """The whole of what remains when nobody else could be asked; less when somebody could."""
        last_moment = self._deadline - RESERVE
        alone = len(self._route) == 1 and len(tier.endpoints) == 1
        if alone or self._started + 1 >= self._fleet.config.retry.attempts:
            return last_moment
        share = (last_moment - now) / 2
        slow = tier.latencies(self._request.model).quantile(0.99)
        if slow is not None:
            share = min(share, max(TIMEOUT_FLOOR, TIMEOUT_FACTOR * slow))
        return now + share

    def _plan_hedge(self, tier: TierState, now: float) -> list[Command]:
        policy = self._fleet.config.hedge
        if policy is None or len(self._running) > 1 or len(tier.endpoints) < 2:
            return []
        after = hedge_after(policy, tier.latencies(self._request.model))
        if after is None or now + after >= self._deadline:
            return []
        self._sleeping_until = now + after
        return [WakeAt(now + after)]

    def _hedge(self, now: float) -> list[Command]:
        tier = next(iter(self._running.values())).tier
        if not self._fleet.hedges.withdraw(now):
            return []
        return self._start("hedge", tier, now) or []

    def _keep_or_escalate(self, running: Running, reply: ScoreReply, now: float) -> list[Command]:
        dropped = self._drop_running(now) if self._running else []
        policy = self._fleet.config.escalation
        cloud = [tier for tier in self._tiers if not tier.is_edge]
        if not cloud or not escalating.is_uncertain(policy, reply):
            reason = self._reason(running)
            return dropped + self._answer(reply, running.tier.name, QUALITY_EDGE, reason, now)
        self._held, self._held_tier = reply, running.tier.name
        self._last_error = None  # from here on, only the cloud's trouble matters
        self._route = cloud
        model, remaining = self._request.model, self._deadline - now
        refusal = escalating.refusal(self._fleet, cloud, model, remaining, now)
        if refusal:
            self._refusal = f"escalation_refused: {refusal}"
            return dropped + self._give_up(now)
        return dropped + self._next_attempt("escalation", now)

    def _after_failure(
        self, failed: Running, error: errors.TierlineError, now: float
    ) -> list[Command]:
        """Another endpoint of the tier at once, else the next tier; only when nobody else is left
        to ask, the same endpoint again after a wait."""
        policy = self._fleet.config.retry
        tier = failed.tier
        kind = "escalation" if failed.kind == "escalation" else "failover"
        if not wants_retry(policy, error, self._started, now - self._begun):
            self._drop_tier(tier)
            return self._next_attempt(kind, now)
        tried = self._tried[tier.name]
        elsewhere = len(tried) < len(tier.endpoints) or len(self._route) > 1
        spent = len(tried) >= policy.per_tier or self._started >= policy.attempts
        if elsewhere or spent:
            if len(tried) >= len(tier.endpoints):
                self._drop_tier(tier)
            return self._next_attempt(kind, now)
        wait = backoff(policy, error, len(tried), now - self._begun, self._dice)
        if wait > (self._deadline - now) / 2:
            self._drop_tier(tier)
            return self._next_attempt(kind, now)
        self._sleeping_until = now + wait
        return [WakeAt(now + wait)]

    def _drop_tier(self, tier: TierState) -> None:
        if self._route and self._route[0] is tier:
            self._route.pop(0)

    # -- endings -----------------------------------------------------------------------------

    def _give_up(self, now: float) -> list[Command]:
        """Nobody is left to ask: held edge answer, last good answer, prior, or an error."""
        why = outcome_name(self._last_error) if self._last_error else "nobody_to_ask"
        if self._held is not None:
            reason = self._refusal or f"escalation_failed: {self._cloud_trouble(now)}"
            return self._answer(self._held, self._held_tier, QUALITY_DEGRADED, reason, now)
        if self._key is not None:
            kept = self._fleet.last_good.answer(self._key, self._request)
            if kept is not None:
                reason = f"last_good_answer: {why}"
                return self._answer(kept, "client", QUALITY_DEGRADED, reason, now)
        prior = self._fleet.priors.get(self._request.model)
        popular = prior_reply(prior, self._request) if prior is not None else None
        if popular is not None:
            reason = f"popularity_prior: {why}"
            return self._answer(popular, "client", QUALITY_DEGRADED, reason, now)
        return self._fail(self._last_error, now)

    def _cloud_trouble(self, now: float) -> str:
        if self._last_error is not None:
            return outcome_name(self._last_error)
        return "deadline" if self._deadline - now < escalating.START_GATE else "nobody_to_ask"

    def _fail(self, error: errors.TierlineError | None, now: float) -> list[Command]:
        commands = self._drop_running(now)
        self._finished = True
        late = now >= self._deadline - RESERVE - escalating.START_GATE
        span = self._deadline - self._begun
        final = final_error(self._request.model, self._mode, error, late=late, span=span)
        final.attempts = tuple(self._attempts)
        final.elapsed = now - self._begun
        final.call_id = self._call_id
        final.__cause__ = error if error is not final else None
        return [*commands, Finish(None, final)]

    def _answer(
        self, reply: ScoreReply, tier: str, quality: str, reason: str, now: float
    ) -> list[Command]:
        commands = self._drop_running(now) if self._running else []
        self._finished = True
        if self._key is not None and quality != QUALITY_DEGRADED:
            self._fleet.last_good.remember(self._key, self._request, reply)
        if self._gate is not None and any(a.reduced for a in self._attempts if a.tier == tier):
            reason = f"{reason}; reduced_view"
        items = reply.items
        if items is None and self._request.candidates is not None:
            items = self._request.candidates.get(CANDIDATE_IDS)  # type: ignore[assignment]
        answer = Answer(
            reply.scores,
            items,
            tier=tier,
            bundle=reply.bundle,
            quality=quality,
            reason=reason,
            uncertainty=reply.uncertainty,
            attempts=tuple(self._attempts),
            elapsed=now - self._begun,
        )
        return [*commands, Finish(answer, None)]

    def _reason(self, running: Running) -> str:
        if running.kind == "escalation" or self._held is not None:
            return "escalated"
        if self._mode is not Mode.SEQUENTIAL:
            return self._mode.value
        if running.tier.is_edge:
            return "certain" if any(not t.is_edge for t in self._tiers) else "no_cloud"
        why = outcome_name(self._last_error) if self._last_error else "breaker"
        return f"edge_failed: {why}"

    # -- bookkeeping -------------------------------------------------------------------------

    def _settle(self, number: int, running: Running, outcome: str, now: float) -> None:
        del self._running[number]
        running.endpoint.inflight -= 1
        self._attempts.append(running.ended(number, outcome, self._begun, now))

    def _drop_running(self, now: float) -> list[Command]:
        """Take back every attempt that is out: no sample, no verdict, every place given back."""
        commands: list[Command] = []
        for number, running in list(self._running.items()):
            running.breaker.released(running.permit)
            self._settle(number, running, "abandoned", now)
            commands.append(CancelAttempt(number))
        return commands
