"""One call as a machine: events go in (begin, success, failure, wake, cancel), commands come out.

The order of composition is fixed, each word a module beside this one:

deadline ▸ fallback ladder ▸ escalation ▸ budgeted retry, hedge, failover ▸ choice of endpoint
(ejection, panic, slow start, zone, load) ▸ breaker ▸ limiter ▸ attempt timeout ▸ transport.

``_next_attempt`` walks down the tiers and ends in the fallback ladder, ``_keep_or_escalate`` stands
between edge and cloud, and ``_start`` goes through the rest of the order for one attempt. What an
attempt's end teaches the fleet is the table in ``lessons``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tierline import _exceptions as errors
from tierline._config import Criticality, Mode
from tierline._core import escalation as escalating
from tierline._core import lessons
from tierline._core.breaker import CLOSED, Breaker, Permit
from tierline._core.budgets import SHARES
from tierline._core.call_state import SEQUENTIAL, CallState
from tierline._core.certified import Shadow
from tierline._core.commands import Command, StartAttempt, WakeAt
from tierline._core.endings import keeps_pin, wrong_answer
from tierline._core.endpoints import EndpointState, Served
from tierline._core.errands import post_learning, post_shadow
from tierline._core.estimators import LatencyWindow
from tierline._core.fleet import TierState, by_priority
from tierline._core.hedging import can_still_win, hedge_after
from tierline._core.retrying import Fault, backoff, outcome_name, pushback, wants_retry
from tierline._core.running import Running
from tierline._core.sovereignty import withheld
from tierline._core.timeouts import LOST, attempt_until
from tierline._types import QUALITY_EDGE, QUALITY_FULL
from tierline.wire.messages import ScoreReply

# A member costs 60 ns to look up in Python 3.11.
DEFAULT: Final = Criticality.DEFAULT
SHEDDABLE: Final = Criticality.SHEDDABLE
FREE_FAILOVERS = 2  # attempts that never left are not counted against the budget, up to here


class ScoreCall(CallState):
    """One call. A shell feeds it events and does what it says; after Finish it says nothing more.

    You must report every StartAttempt exactly once (success or failure) unless CancelAttempt took
    it back or ``cancel`` ended the call, and call ``wake`` at the instants it asks for.
    """

    __slots__ = ()

    # -- events ------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Command]:
        self._begun = now
        if not self._tiers:
            return self._fail(errors.NotPermitted("the data policy permits no tier at all"), now)
        self._route = self._tiers
        if self._mode is not SEQUENTIAL:
            wants_edge = self._mode is Mode.EDGE_ONLY
            self._route = [tier for tier in self._tiers if tier.is_edge is wants_edge]
        self._route = self._by_priority(self._route, now)
        self._fleet.calls.add(now)
        return self._next_attempt("first", now)

    def attempt_succeeded(self, number: int, reply: ScoreReply, now: float) -> list[Command]:
        running = self._running.get(number)
        if running is None:
            return []
        request, fleet = self._request, self._fleet
        wrong = wrong_answer(request, reply)
        if wrong is not None:
            is_stale = not keeps_pin(request.version, reply.bundle)
            return self._failed(number, running, wrong, now, "" if is_stale else reply.bundle)
        self._settle(number, running, "ok", now)
        semantic, policy = fleet.semantic, fleet.config.breaker
        span = self._deadline - self._begun
        lessons.answered(running, reply, request.model, semantic, policy, span=span, now=now)
        for loser in self._running.values():
            lessons.outrun(loser, running, self._dice, now)
        if fleet.prober is not None:
            seen = request if self._gate is None else self._gate.view(running.tier.config).request
            fleet.prober.remember(running.tier.name, seen)
        if self._finished:
            return []
        if running.tier.is_edge and self._mode is SEQUENTIAL:
            return self._keep_or_escalate(running, reply, now)
        if fleet.is_paired and not running.tier.is_edge:
            fleet.control(request.model).cloud_answered(running.endpoint.url, reply.bundle)
        quality = QUALITY_EDGE if running.tier.is_edge else QUALITY_FULL
        reason = self._reason(running, reply.bundle)
        return self._answer(reply, running.tier.name, quality, reason, now)

    def attempt_failed(self, number: int, error: errors.TierlineError, now: float) -> list[Command]:
        running = self._running.get(number)
        return [] if running is None else self._failed(number, running, error, now, "")

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
        return self._drop_running(now, lost=False)

    # -- decisions ---------------------------------------------------------------------------

    def _next_attempt(self, kind: str, now: float) -> list[Command]:
        """Start an attempt at the first tier of the route that has anyone to ask; when none has,
        go down the fallback ladder."""
        while self._route:
            tier = self._route[0]
            command = self._start(kind, tier, now)
            if command is not None:
                return command
            full = self._last_error is None and tier.is_full(
                self._request.model, now, self._criticality
            )
            if full:
                self._last_error = errors.Overloaded(
                    f"every endpoint of {tier.name!r} has as many calls as its limiter allows"
                )
            self._drop_tier(tier)
            if kind == "first" and self._started == 0:
                continue
            kind = "escalation" if self._held is not None else "failover"
        return self._give_up(now)

    def _start(self, kind: str, tier: TierState, now: float) -> list[Command] | None:
        """One attempt at this tier, through the order of composition; None where it ends."""
        model, retry = self._request.model, self._fleet.config.retry
        tried = self._tried.setdefault(tier.name, [])
        latencies = tier.latencies(model)
        # deadline, and the caps on attempts
        if not self._has_time(latencies, now):
            return None
        if self._started >= retry.attempts or len(tried) >= retry.per_tier:
            return None
        # choice of endpoint: among those that ejection, breaker and limiter let through
        endpoint = self._choose(kind, tier, tried, now)
        # budget of retries, hedges and failovers
        if endpoint is None or not self._pays(kind, tier, now):
            return None
        # breaker of the endpoint's model, and of the bundle it serves
        served = endpoint.served(model)
        timeout_at = self._timeout_at(tier, served.breaker, latencies, now)
        permits = self._permits(served, now, timeout_at - now)
        if permits is None:
            return None
        # limiter
        endpoint.inflight += 1
        # attempt timeout and transport
        if kind == "retry" and endpoint.url not in tried:
            kind = "failover"
        self._started += 1
        tried.append(endpoint.url)
        view = self._view(tier, endpoint.url)
        reduced = () if view is None else view.reduced
        permit, suspect = permits
        self._running[self._started] = Running(
            kind, tier, endpoint, served, permit, latencies, now, timeout_at - now, suspect, reduced
        )
        start = StartAttempt(self._started, kind, endpoint, timeout_at, view)
        if self._fleet.config.hedge is None:
            return [start]
        return [start, *self._plan_hedge(tier, latencies, now)]

    def _has_time(self, latencies: LatencyWindow, now: float) -> bool:
        """Whether an answer could come back: a further attempt must have time for the tier's
        fastest tenth. The first is made anyway, or nobody would notice that it has become faster.
        """
        remaining = self._deadline - now
        if remaining < escalating.START_GATE:
            return False
        return self._started == 0 or remaining >= latencies.lately_fastest(now)

    def _choose(
        self, kind: str, tier: TierState, tried: list[str], now: float
    ) -> EndpointState | None:
        model, dice, criticality = self._request.model, self._dice, self._criticality
        if kind == "hedge":
            running = next(iter(self._running.values())).endpoint
            return tier.hedge_target(model, running, tried, now, dice, criticality)
        avoid: Collection[str] = tried if len(tried) < len(tier.endpoints) else ()
        if self._pushed:
            avoid = {*avoid, *(url for url, until in self._pushed.items() if now < until)}
        return tier.pick(model, avoid, self._key, now, dice, criticality)

    def _pays(self, kind: str, tier: TierState, now: float) -> bool:
        """A call's first attempt is free and its first escalation has its own budget; whatever
        comes after either draws on the tier's budget, a hedge on that of hedges too."""
        budget = tier.budget
        if self._started == 0:
            budget.requests.add(now)
            return True
        if kind == "escalation" and not self._escalated:
            self._escalated = True
            budget.requests.add(now)
            return True
        share = SHARES[self._criticality]
        if self._criticality is SHEDDABLE and now < tier.pressed_until:
            share = 0.0  # what may be shed is shed: others need what there is to spend
        if kind == "hedge":
            affordable = budget.affords(now, share) and self._fleet.hedges.withdraw(now)
            return affordable and budget.withdraw(now, share)
        if isinstance(self._last_error, errors.ConnectFailed) and self._free < FREE_FAILOVERS:
            self._free += 1
            budget.let_through(now)
            return True
        return budget.withdraw(now, share)

    def _permits(
        self, served: Served, now: float, lease: float
    ) -> tuple[Permit, tuple[Breaker, Permit] | None] | None:
        permit = served.breaker.acquire(now, lease, early=True)  # pick says whom it is early for
        semantic, model = self._fleet.semantic, self._request.model
        if permit is None or semantic.is_clear or not semantic.implicates(model, served.bundle):
            return None if permit is None else (permit, None)
        suspect = semantic.acquire(model, served.bundle, now, lease)
        if suspect is None:
            served.breaker.released(permit)
            return None
        return permit, suspect

    def _timeout_at(
        self, tier: TierState, breaker: Breaker, latencies: LatencyWindow, now: float
    ) -> float:
        """The whole of what remains when nobody else could be asked; less when somebody could."""
        return attempt_until(
            self._fleet.config.timeout,
            latencies,
            now=now,
            deadline=self._deadline,
            is_last=not self._can_be_followed(tier, now),
            is_probe=breaker.state is not CLOSED,
        )

    def _can_be_followed(self, tier: TierState, now: float) -> bool:
        """Whether another attempt could be made, and paid for, after the one to be made now."""
        retry = self._fleet.config.retry
        if self._started + 1 >= retry.attempts or now < tier.budget.broke_until:
            return False
        here = len(tier.endpoints) > 1 and len(self._tried[tier.name]) + 1 < retry.per_tier
        # Compared first: a member's hash is Python code, and most calls are of no special kind.
        share = 1.0 if self._criticality is DEFAULT else SHARES[self._criticality]
        if here and now >= tier.pressed_until and tier.budget.affords(now, share):
            return True
        return any(other.budget.affords(now, share) for other in self._route if other is not tier)

    def _plan_hedge(self, tier: TierState, latencies: LatencyWindow, now: float) -> list[Command]:
        policy = self._fleet.config.hedge
        if policy is None or len(self._running) > 1 or len(tier.endpoints) < 2:
            return []
        after = hedge_after(policy, latencies)
        if after is None or now + after >= self._deadline:
            return []
        self._sleeping_until = now + after
        return [WakeAt(now + after)]

    def _hedge(self, now: float) -> list[Command]:
        running = next(iter(self._running.values()))
        if not can_still_win(running.latencies, self._deadline - now, now):
            return []
        return self._start("hedge", running.tier, now) or []

    def _by_priority(self, route: list[TierState], now: float) -> list[TierState]:
        if len(route) < 2 or route[0].is_edge is not route[1].is_edge:
            return list(route)
        return by_priority(route, self._request.model, now, self._dice, self._criticality)

    def _keep_or_escalate(self, running: Running, reply: ScoreReply, now: float) -> list[Command]:
        dropped = self._drop_running(now, lost=True) if self._running else []
        cloud = [tier for tier in self._tiers if not tier.is_edge]
        said = self._verdict(running, reply, cloud, now)
        if not cloud or said is escalating.CERTAIN:
            reason = self._reason(running, reply.bundle)
            return dropped + self._answer(reply, running.tier.name, QUALITY_EDGE, reason, now)
        self._held, self._held_tier = reply, running.tier.name
        self._last_error = None  # from here on, only the cloud's trouble matters
        self._route = self._by_priority(cloud, now)
        if said != escalating.ESCALATE:
            self._refusal = f"escalation_refused: {said}"
            return dropped + self._give_up(now)
        if self._control is not None and self._request.version is None:
            self._pin_to(self._control)
        return dropped + self._next_attempt("escalation", now)

    def _verdict(
        self, running: Running, reply: ScoreReply, cloud: list[TierState], now: float
    ) -> str:
        """Whether this edge answer is kept; tells the bundle's control and its alarm."""
        fleet, model = self._fleet, self._request.model
        if not fleet.is_paired:
            return escalating.CERTAIN
        control = self._control = fleet.control(model).of(reply.bundle, reply.threshold)
        if reply.threshold is not None and now >= control.learn_at:
            post_learning(fleet, model, running.endpoint.url, control, now)
        held_against = self._held_against = control.threshold
        # Without an attempt left no time remains for one, whatever the deadline leaves.
        is_spent = self._started >= fleet.config.retry.attempts
        remaining = escalating.SPENT if is_spent else self._deadline - now
        said = escalating.verdict(fleet, control, cloud, model, reply, remaining, now)
        if control.alarm is not None and reply.uncertainty is not None:
            covered = not control.uncovered(self._request)
            if covered and not self._is_reduced(running.tier.name):
                policy = self._sovereignty
                call = Shadow(self._request, policy, control, reply, control.bound(held_against))
                kept = said is escalating.CERTAIN
                post_shadow(fleet, call, cloud, kept=kept, dice=self._dice, now=now)
        return said

    def _failed(
        self, number: int, running: Running, error: errors.TierlineError, now: float, bundle: str
    ) -> list[Command]:
        """The attempt has failed; ``bundle`` is what gave a wrong answer, or ""."""
        if self._gate is not None:
            error = withheld(error)
        if isinstance(error, LOST) and running.held_up(now):
            said = f"its time was over while this process stood still: {error}"
            error = errors.AttemptLapsed(said)
        self._settle(number, running, outcome_name(error), now)
        model, dice = self._request.model, self._dice
        url = running.endpoint.url
        after = pushback(error)
        if after is not None:
            self._pushed[url] = now + after
        if bundle and self._fleet.semantic.wrong(model, bundle, url, now, dice.random()):
            lessons.bundle_failed(running, dice, now)
            fault = Fault.ENDPOINT
        else:
            span, kind = self._deadline - self._begun, self._criticality
            fault = lessons.failed(
                running, error, model, span=span, criticality=kind, dice=dice, now=now
            )
        if self._pins and self._partner is not None and isinstance(error, errors.ModelNotFound):
            self._fleet.control(model).cloud_lacks(url, self._partner)
            self._pins = False
        if self._finished:
            return []
        self._last_error = error
        if fault is Fault.CALLER:  # nobody else would find it right
            return self._fail(error, now) if self._held is None else self._give_up(now)
        if self._running:  # a hedge is still out
            return []
        return self._after_failure(running, error, now)

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
        at = self._ready_at(tier, error, now)
        if at - now > (self._deadline - now) / 2:
            self._drop_tier(tier)
            return self._next_attempt(kind, now)
        self._sleeping_until = at
        return [WakeAt(at)]

    def _ready_at(self, tier: TierState, error: errors.TierlineError, now: float) -> float:
        """When an endpoint that was asked before may be asked again: the first to be ready, where
        the last said when; else after a wait, and not before somebody is ready either."""
        ready = min(self._pushed.get(endpoint.url, now) for endpoint in tier.endpoints)
        if pushback(error) is not None:
            return ready
        tries, elapsed = len(self._tried[tier.name]), now - self._begun
        wait = backoff(self._fleet.config.retry, error, tries, elapsed, self._dice)
        return max(ready, now + wait)

    def _drop_tier(self, tier: TierState) -> None:
        if self._route and self._route[0] is tier:
            self._route.pop(0)
