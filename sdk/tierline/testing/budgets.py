"""What must be true of a whole run: every budget held, in every window of ten seconds."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tierline._config import ClientConfig
from tierline.testing.answers import Complaint
from tierline.testing.outcome import Outcome

WINDOW = 10.0  # seconds a budget looks back; what a second's bucket rounds is granted below
FREE = 2  # failovers after a refused connection that cost nothing, a call


def complaints(outcomes: Sequence[Outcome], config: ClientConfig) -> Iterator[Complaint]:
    """Every budget that was overspent."""
    begun = sorted(outcome.began for outcome in outcomes)
    retried: dict[str, list[float]] = defaultdict(list)
    hedged: list[float] = []
    escalated: list[float] = []
    for outcome in outcomes:
        free = FREE
        refused = False
        escalations = 0
        for attempt in sorted(outcome.attempts, key=lambda a: a.number):
            at = outcome.began + attempt.started
            refused_before, refused = refused, refused or attempt.outcome == "connect_failed"
            if attempt.kind == "escalation":
                escalations += 1
                if escalations == 1:
                    escalated.append(at)
                    continue
            if attempt.kind == "hedge":
                hedged.append(at)
            if attempt.kind != "first":
                if refused_before and free and attempt.kind != "hedge":
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


def _overspent(
    what: str, spent: list[float], begun: list[float], ratio: float, floor: float, burst: float
) -> Iterator[Complaint]:
    spent.sort()
    for i, at in enumerate(spent):
        # Buckets hold the last nine to ten seconds, by a clock that may drift by 2 %.
        first = bisect_right(spent, at - (WINDOW - 1.3))
        calls = bisect_right(begun, at) - bisect_right(begun, at - WINDOW - 0.3)
        granted = ratio * calls + floor * WINDOW + burst
        if i + 1 - first > granted + 1e-9:
            yield (
                "budgets hold",
                f"{what}: {i + 1 - first} in the window at {at:.3f} s, {granted:.2f} granted",
            )
            return
