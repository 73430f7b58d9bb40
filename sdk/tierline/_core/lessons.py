"""What the end of an attempt teaches the fleet: one function for each way an attempt can end.

| end of the attempt | breaker | standing | limiter | latency | bundle |
|---|---|---|---|---|---|
| answered | success, or slow | success | sample | sample | suspicion eases |
| answered, found late by a process that stood still | success | success | – | – | suspicion eases |
| wrong answer | failure | failure | – | as a full timeout | counted by bundle |
| wrong answer, bundle to blame | neutral | neutral | – | – | its own breaker |
| failed, or never sent | failure | failure | – | as a full timeout | – |
| timed out | failure | failure | cut | as a full timeout, censored | – |
| timed out, cut short by its call | neutral | neutral | – | as long as it had, censored | – |
| refused for load | neutral | neutral | cut, for its kind of call | – | – |
| not there, lapsed, or the caller's fault | neutral | neutral | – | – | – |
| lost to a hedge in good time, long overdue | one more in a row | neutral | – | censored | – |
| lost to a hedge otherwise | neutral | neutral | – | censored | – |
| caller has gone | neutral | neutral | – | – | – |
"""

from __future__ import annotations

from tierline import _exceptions as errors
from tierline._config import BreakerPolicy, Criticality
from tierline._core.breaker import State
from tierline._core.dice import Dice
from tierline._core.retrying import Fault, fault_of
from tierline._core.running import Running
from tierline._core.semantic import SemanticHealth
from tierline.wire.messages import ScoreReply


def answered(
    running: Running,
    reply: ScoreReply,
    model: str,
    semantic: SemanticHealth,
    policy: BreakerPolicy,
    *,
    span: float,
    now: float,
) -> None:
    """The attempt was answered, and the answer is one. ``span`` is the call's time in seconds."""
    endpoint, latencies = running.endpoint, running.latencies
    asked_for, running.served.bundle = running.served.bundle, reply.bundle
    endpoint.standing.succeeded(now)
    if running.found_late(now):
        running.breaker.succeeded(running.permit, now)  # and not slowly, for all we know
    else:
        latency = now - running.started
        late = latency > policy.slow_share * span
        slow = late and latency > policy.slow_multiple * latencies.usual
        running.breaker.succeeded(running.permit, now, slow=slow)
        endpoint.latency.observe(latency, now)
        latencies.observe(latency, now)
        timings = reply.timings
        if "expected_wait" in timings:
            endpoint.queue.observe(timings["expected_wait"], timings.get("queue", 0.0), now)
        # A queue half as long as the attempt's timeout is about to become one of timeouts.
        patience = min(span, 2.0 * running.allowed)
        endpoint.limiter.answered(latency, endpoint.inflight + 1, patience, now)
    if running.permit.probe is not None and running.breaker.state is State.CLOSED:
        endpoint.standing.proven(now)
        endpoint.limiter.start_anew()
        endpoint.latency.forget()  # the failures it is back from; the slow start holds it down
    if not semantic.is_clear:
        if running.suspect is not None:
            breaker, permit = running.suspect
            if reply.bundle == asked_for:
                breaker.succeeded(permit, now)
            else:  # swapped meanwhile: it says nothing of the suspect
                breaker.released(permit)
        semantic.right(model, reply.bundle, now)


def failed(
    running: Running,
    error: errors.TierlineError,
    model: str,
    *,
    span: float,
    criticality: Criticality,
    dice: Dice,
    now: float,
) -> Fault:
    """The attempt failed. ``span`` is the call's time in seconds: a failure counts as that long an
    answer, so that an endpoint that fails fast does not look fast. Returns whose fault it was."""
    fault = fault_of(error)
    endpoint = running.endpoint
    if running.suspect is not None:
        breaker, permit = running.suspect
        breaker.released(permit)
    timed_out = isinstance(error, errors.AttemptTimedOut)
    if timed_out and running.is_hurried:
        _hurried(running, now)
        return fault
    if timed_out:
        running.latencies.timed_out(now - running.started, now)
    if timed_out:
        endpoint.limiter.dropped(now)
    elif fault is Fault.BUSY:
        _refused(running, error, model, criticality, now)
    if fault is not Fault.ENDPOINT and fault is not Fault.NEVER_SENT:
        running.breaker.released(running.permit)
        return fault
    running.breaker.failed(running.permit, now, dice.random())
    endpoint.latency.penalise(span, now)
    unreached = fault is Fault.NEVER_SENT
    running.tier.outliers.failed(
        endpoint.standing, model, now, unreached=unreached, jitter=dice.random()
    )
    return fault


def _refused(
    running: Running,
    error: errors.TierlineError,
    model: str,
    criticality: Criticality,
    now: float,
) -> None:
    """Too much to do there, for this kind of call; or for this one, when it had no time to wait."""
    is_hurried = running.is_hurried
    if not is_hurried:
        running.tier.refused(running.endpoint, model, now)
    elif isinstance(error, errors.DeadlineExceeded):
        return
    if criticality is Criticality.SHEDDABLE:
        running.endpoint.limiter.shed(now)
    else:
        running.endpoint.limiter.dropped(now)


def _hurried(running: Running, now: float) -> None:
    """Its call gave it less time than good answers take. All that is learnt is that it would have
    taken longer: calls with more time must not pay for those with less."""
    running.breaker.released(running.permit)
    running.latencies.censored(now - running.started, now)
    running.endpoint.latency.penalise(running.allowed, now)


def bundle_failed(running: Running, dice: Dice, now: float) -> None:
    """The answer was wrong, and what the endpoint serves is to blame, not the endpoint."""
    running.breaker.released(running.permit)
    if running.suspect is not None:
        breaker, permit = running.suspect
        breaker.failed(permit, now, dice.random())


def outrun(loser: Running, winner: Running, dice: Dice, now: float) -> None:
    """Another attempt of the call was answered while this one is out. Both were asked by the same
    process in the same tier: when the one took no longer than most do and the other is overdue by
    the same measure, it is the endpoint that does not answer, and not the tier, nor this process.
    """
    late = loser.latencies.usually_late
    overdue, in_time = now - loser.started > late, now - winner.started <= late
    if loser.latencies.knows_late and loser.tier is winner.tier and overdue and in_time:
        loser.breaker.outrun(loser.permit, now, dice.random())


def abandoned(running: Running, now: float, *, lost: bool) -> None:
    """Nobody wants the answer any more; ``lost`` says that another attempt won."""
    running.breaker.released(running.permit)
    if running.suspect is not None:
        breaker, permit = running.suspect
        breaker.released(permit)
    if lost:
        running.latencies.censored(now - running.started, now)
