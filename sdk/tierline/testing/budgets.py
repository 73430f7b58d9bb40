"""What must be true of a whole run: every budget held, in every window of ten seconds."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tierline._config import ClientConfig
from tierline._types import Attempt
from tierline.testing.answers import Complaint
from tierline.testing.outcome import Outcome
from tierline.testing.watch import DRIFT

WINDOW = 10.0  # seconds a budget looks back; what a second's bucket rounds is granted below
INSTANT = 1e-6  # seconds that tell two instants of virtual time apart
FREE = 2  # failovers after a refused connection that cost nothing, a call


def complaints(outcomes: Sequence[Outcome], config: ClientConfig) -> Iterator[Complaint]:
    """Every budget that was overspent."""
    begun = sorted(outcome.began for outcome in outcomes)
    retried: dict[str, list[float]] = defaultdict(list)
    hedged: list[float] = []
    escalated: list[float] = []
    for outcome in outcomes:
        free = FREE
        since = 0  # the call's own trouble before it was escalated is not its escalation's
        for attempt in sorted(outcome.attempts, key=lambda a: a.number):
            # By the client's clock, which may be slow: the world's may have shown as much as this.
            at = outcome.began + attempt.started / (1.0 - DRIFT)
            if attempt.kind == "escalation" and not since:
                since = attempt.number
                escalated.append(at)
                continue
            if attempt.kind == "hedge":
                hedged.append(at)
            if attempt.kind != "first":
                refused = _was_refused_before(attempt, outcome.attempts, since)
                if refused and free and attempt.kind != "hedge":
                    free -= 1
                else:
                    retried[attempt.tier].append(at)
    retry, escalation = config.retry, config.escalation
    for tier, spent in retried.items():
        yield from _overspent(f"retries to {tier}", spent, begun, retry.budget, retry.floor, 0.0)
    hedge = config.hedge.budget if config.hedge else 0.0
    yield from _overspent("hedges", hedged, begun, hedge, 0.0, 0.0)
    most, burst = escalation.ratio, escalation.allowance
    yield from _overspent("escalations", escalated, begun, most, 0.0, burst)


def _was_refused_before(attempt: Attempt, attempts: Sequence[Attempt], since: int) -> bool:
    """Whether the last failure before an attempt was a refused connection: such a one costs no
    work anywhere, and what follows it is free."""
    failed = [
        other
        for other in attempts
        if since <= other.number < attempt.number
        and other.ended <= attempt.started
        and other.outcome not in ("ok", "abandoned")
    ]
    last = max(failed, key=lambda other: (other.ended, other.number), default=None)
    return last is not None and last.outcome == "connect_failed"


def _overspent(
    what: str, spent: list[float], begun: list[float], ratio: float, floor: float, burst: float
) -> Iterator[Complaint]:
    spent.sort()
    for i, at in enumerate(spent):
        # Buckets hold the last nine to ten seconds, by a clock that may drift by 2 %.
        first = bisect_right(spent, at - (WINDOW - 1.3))
        # Calls of the same instant count, however its sum of two spans was rounded.
        calls = bisect_right(begun, at + INSTANT) - bisect_right(begun, at - WINDOW - 0.3)
        granted = ratio * calls + floor * WINDOW + burst
        if i + 1 - first > granted + 1e-9:
            yield (
                "budgets hold",
                f"{what}: {i + 1 - first} in the window at {at:.3f} s, {granted:.2f} granted",
            )
            return
