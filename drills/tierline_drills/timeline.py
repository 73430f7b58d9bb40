"""When what happened: the six instants of a drill, found in its log. Pure.

t0 inject · t1 first symptom · t2 detected (a breaker opens, an ejection, an alert) · t3 mitigated
(callers get what they are promised again) · t4 fault cleared · t5 fully recovered (calm for the
drill's ``settle`` seconds, every breaker closed, p99 as before).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tierline_drills.records import EXPERIMENT, Belief, Call, Event, Log
from tierline_drills.statistics import percentile

WINDOW = 5.0  # seconds in which the SLI must reach the SLO to count as mitigated


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Seconds since the drill's origin; None: it did not happen. ``detected`` is by
    anybody, ``detected_by_client`` by the first client, ``all_detected`` by the last."""

    inject: float | None = None
    symptom: float | None = None
    detected: float | None = None
    detected_by_client: float | None = None
    all_detected: float | None = None
    mitigated: float | None = None
    cleared: float | None = None
    recovered: float | None = None

    def since_inject(self, instant: float | None) -> float | None:
        """Seconds from the injection to that instant."""
        if instant is None or self.inject is None:
            return None
        return max(0.0, instant - self.inject)


def is_good(call: Call, deadline: float) -> bool:
    """Answered rightly and in time, at any quality. A little lateness is the event loop's."""
    return not call.error and not call.wrong and call.latency <= deadline + LATE


LATE = 0.015  # seconds: an answer at the deadline may be noted this late on a busy machine


def timeline(log: Log) -> Timeline:
    """The six instants of this drill."""
    calls, drill = log.group(EXPERIMENT), log.drill
    injections = [event for event in log.events if event.kind == "inject"]
    if not injections:
        return Timeline()
    start = injections[0].at
    targets = {name for event in injections for name in event.endpoints}
    clears = [event.at for event in log.events if event.kind in ("clear", "restored")]
    cleared = max((at for at in clears if at >= start), default=None)
    first, by_client, last = _detected(log, start, targets)
    mitigated = _mitigated(calls, start, drill.deadline, drill.slo)
    return Timeline(
        inject=start,
        symptom=_symptom(calls, start, targets, drill.deadline),
        detected=first,
        detected_by_client=by_client,
        all_detected=last,
        mitigated=mitigated,
        cleared=cleared,
        recovered=_recovered(log, calls, start, max(cleared or start, mitigated or start)),
    )


def _symptom(
    calls: Sequence[Call], start: float, targets: set[str], deadline: float
) -> float | None:
    """The first failed attempt at a target, or the first call that ended badly or degraded."""
    found = [
        tried.ended
        for call in calls
        for tried in call.attempts
        if tried.failed and tried.ended >= start and (not targets or tried.endpoint in targets)
    ]
    found += [
        call.ended
        for call in calls
        if call.ended >= start and (call.quality == "degraded" or not is_good(call, deadline))
    ]
    return min(found, default=None)


def _detected(
    log: Log, start: float, targets: set[str]
) -> tuple[float | None, float | None, float | None]:
    """When anybody (a client or a watcher), the first client and the last client noticed."""
    noticed: dict[int, float] = {}
    for belief in log.beliefs:
        about = not targets or belief.endpoint in targets
        if belief.group == EXPERIMENT and about and belief.at >= start and not belief.healthy:
            noticed.setdefault(belief.client, belief.at)
    alerts = [event.at for event in log.events if event.kind == "alert" and event.at >= start]
    first = min([*noticed.values(), *alerts], default=None)
    clients = {call.client for call in log.calls if call.group == EXPERIMENT}
    everyone = clients and clients <= noticed.keys()
    by_client = min(noticed.values(), default=None)
    return first, by_client, max(noticed.values()) if everyone else None


def _mitigated(calls: Sequence[Call], start: float, deadline: float, slo: float) -> float | None:
    """The first instant from which a whole window of calls meets the SLO; None when the log ends
    before that was seen."""
    after = [call for call in calls if call.due >= start]
    if not after:
        return None
    bad = [call.due for call in after if not is_good(call, deadline)]
    last_due = after[-1].due
    for instant in [start, *bad]:
        begin = instant if instant == start else instant + 1e-6
        window = [call for call in after if begin <= call.due < begin + WINDOW]
        missed = sum(1 for at in bad if begin <= at < begin + WINDOW)
        if window and last_due - begin >= WINDOW * 0.5 and missed <= (1 - slo) * len(window):
            ended = [call.ended for call in calls if call.due == instant and instant != start]
            return max([begin, *ended]) if instant != start else start
    return None


def _recovered(log: Log, calls: Sequence[Call], inject: float, earliest: float) -> float | None:
    """The first instant from ``earliest`` on from which, for ``settle`` seconds, every client
    believes in every endpoint that had answered it before the injection (a standby that nobody
    needs is not asked, so nobody can believe in it), calls are good, and p99 is as it was."""
    drill = log.drill
    before = percentile([call.latency for call in calls if call.due < inject], 0.99)
    allowed = None if before is None else before * (1 + drill.p99_within) + drill.p99_slack
    instants = [earliest, *(b.at for b in log.beliefs if b.at > earliest)]
    instants += [c.due + 1e-6 for c in calls if c.due > earliest and _disturbs(c, drill, allowed)]
    end = calls[-1].due if calls else earliest
    served = {
        (call.client, tried.endpoint)
        for call in calls
        for tried in call.attempts
        if tried.ended < inject and tried.outcome == "ok"
    }
    beliefs = [b for b in log.beliefs if (b.client, b.endpoint) in served]
    for instant in sorted(instants):
        if instant + drill.settle > end + 0.5:
            return None
        if not _all_healthy(beliefs, instant, instant + drill.settle):
            continue
        window = [c for c in calls if instant <= c.due < instant + drill.settle]
        good = sum(is_good(call, drill.deadline) for call in window)
        tail = percentile([call.latency for call in window], 0.99)
        calm = allowed is None or (tail is not None and tail <= allowed)
        if window and calm and good >= drill.slo * len(window):
            return instant
    return None


def _disturbs(call: Call, drill: object, allowed: float | None) -> bool:
    return bool(call.error or call.wrong or (allowed is not None and call.latency > allowed))


def _all_healthy(beliefs: Sequence[Belief], start: float, end: float) -> bool:
    """Whether nobody believes ill of an endpoint at any instant of this span."""
    now: dict[tuple[str, int, str], bool] = {}
    for belief in beliefs:
        if belief.group != EXPERIMENT:
            continue
        if belief.at <= start:
            now[belief.group, belief.client, belief.endpoint] = belief.healthy
        elif belief.at <= end and not belief.healthy:
            return False
    return all(now.values())


def phases(log: Log, line: Timeline) -> list[tuple[str, float, float]]:
    """The spans a report tells latencies for: before, fault (until cleared), after."""
    calls = log.group(EXPERIMENT)
    if not calls:
        return []
    begin, end = calls[0].due, calls[-1].due + 1e-6
    if line.inject is None:
        return [("before", begin, end)]
    cleared = line.cleared if line.cleared is not None else end
    spans = [("before", begin, line.inject), ("fault", line.inject, min(cleared, end))]
    if cleared < end:
        spans.append(("after", cleared, end))
    return spans


def happenings(events: Sequence[Event]) -> list[Event]:
    """The events a reader wants to see, without probes."""
    return [event for event in events if event.kind != "probe"]
