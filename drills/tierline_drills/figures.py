"""The figures of a drill, each a pure function of its log; definitions in docs/drills/README.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tierline_drills.records import Call, Drill, Log, Tried
from tierline_drills.statistics import percentile, provable, wilson
from tierline_drills.timeline import Timeline, is_good

MONTH = 30 * 24 * 3600.0  # seconds an error budget is counted over
PAID = frozenset({"retry", "hedge", "failover"})  # attempts beyond what was asked
LEFT_OUT = 0.25  # of its fair share: who gets no more is asked only to see whether it is back
FEWEST = 10  # attempts in a second that show anything
SLOW = 0.020  # seconds: what the yardstick counts as slow
FULL = frozenset({"full", "edge"})  # qualities a policy intended; "degraded" is neither
SAFETY = ("double_executions", "forbidden_bytes", "audit_gaps", "acknowledged_lost")

Figures = dict[str, Any]


def availability(calls: Sequence[Call], drill: Drill) -> Figures:
    """Shares of the offered calls that were answered rightly and in time: at any quality, and at
    the quality the policy intended; with Wilson intervals and what so many calls can show."""
    good = [call for call in calls if is_good(call, drill.deadline)]
    intended = sum(call.quality in FULL for call in good)
    offered = len(calls)
    return {
        "offered": offered,
        "failed": sum(bool(call.error) for call in calls),
        "late": sum(not call.error and not call.wrong for call in calls)
        - sum(not call.wrong for call in good),
        "any": len(good) / offered if offered else None,
        "any_interval": wilson(len(good), offered),
        "full": intended / offered if offered else None,
        "full_interval": wilson(intended, offered),
        "provable": provable(offered),
        "errors": dict(Counter(_kind(call.error) for call in calls if call.error)),
    }


def amplification(calls: Sequence[Call], bin_width: float = 1.0) -> Figures:
    """Attempts ÷ what was asked of the tiers (first attempts and escalations): over all calls, and
    in the worst second of at least ten calls."""
    by_second: dict[int, list[Call]] = {}
    for call in calls:
        by_second.setdefault(int(call.due // bin_width), []).append(call)
    full = [ratio(ones) for ones in by_second.values() if len(ones) >= 10]
    kinds = Counter(tried.kind for call in calls for tried in call.attempts)
    sent = sum(kinds.values())
    return {
        "mean": ratio(calls),
        "peak": max((value for value in full if value is not None), default=None),
        "attempts": sent,
        "by_kind": dict(kinds),
        "hedged": kinds["hedge"] / len(calls) if calls else None,
        "escalated": kinds["escalation"] / len(calls) if calls else None,
    }


def ratio(calls: Sequence[Call]) -> float | None:
    """Attempts ÷ what was asked, over these calls."""
    attempts = [tried for call in calls for tried in call.attempts]
    asked = sum(tried.kind not in PAID for tried in attempts)
    return len(attempts) / asked if asked else None


def by_class(calls: Sequence[Call], drill: Drill) -> Figures:
    """The availability of each class of calls."""
    kinds = sorted({call.criticality for call in calls})
    return {
        kind: availability([call for call in calls if call.criticality == kind], drill)
        for kind in kinds
    }


def goodput(calls: Sequence[Call], drill: Drill, seconds: float) -> float | None:
    """Calls a second that were answered rightly, in time and at the quality intended."""
    good = sum(is_good(call, drill.deadline) and call.quality in FULL for call in calls)
    return good / seconds if seconds > 0 else None


def latencies(calls: Sequence[Call]) -> Figures:
    """Seconds from when calls were due to their ends: median, p99, p99.9, the longest, and how many
    took longer than SLOW."""
    values = [call.latency for call in calls]
    named = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
    slow = sum(value > SLOW for value in values)
    return {
        "calls": len(values),
        "slow": slow,
        **{key: percentile(values, at) for key, at in named.items()},
    }


def budget(calls: Sequence[Call], drill: Drill, fault: tuple[float, float] | None) -> Figures:
    """What this event costs of a month's error budget, bad ÷ ((1 − SLO) · calls of 30 days), and
    how fast it burns while the fault lasts."""
    bad = [call for call in calls if not is_good(call, drill.deadline)]
    monthly = (1 - drill.slo) * drill.rate * MONTH
    burn = None
    if fault is not None:
        during = [call for call in calls if fault[0] <= call.due < fault[1]]
        lost = sum(not is_good(call, drill.deadline) for call in during)
        burn = lost / len(during) / (1 - drill.slo) if during else None
    return {"bad": len(bad), "share_of_month": len(bad) / monthly, "burn_rate": burn}


def quality(calls: Sequence[Call]) -> Figures:
    """What degradation cost: NDCG@10 of the answers beside that of the answers the best healthy
    tier would have given to the same calls."""
    answered = [call for call in calls if not call.error]
    degraded = [call for call in answered if call.quality == "degraded"]
    return {
        "answered": len(answered),
        "degraded": len(degraded),
        "share_degraded": len(degraded) / len(answered) if answered else None,
        "ndcg": _mean([call.gain for call in answered]),
        "ndcg_full": _mean([call.full_gain for call in answered]),
        "ndcg_cost_degraded": _mean([call.full_gain - call.gain for call in degraded]),
        "by_tier": dict(Counter(call.tier for call in answered)),
        "by_reason": dict(Counter(call.reason for call in answered)),
    }


def safety(log: Log, calls: Sequence[Call], line: Timeline) -> Figures:
    """What must be 0: wrong answers that reached a caller, in all and of the calls that were due
    once every client had noticed; and what was counted elsewhere."""
    counted: Figures = {name: None for name in SAFETY}
    for count in log.counts:
        if count.name in counted:
            counted[count.name] = (counted[count.name] or 0) + count.value
    wrong = Counter(call.wrong for call in calls if call.wrong)
    unlabelled = sum(
        call.tier == "client" and call.quality != "degraded" for call in calls if not call.error
    )
    return {
        "wrong_answers": sum(wrong.values()),
        "wrong": dict(wrong),
        "wrong_once_detected": None
        if line.all_detected is None
        else sum(bool(call.wrong) and call.due > line.all_detected for call in calls),
        "mislabelled": unlabelled,
        **counted,
    }


def left_out(
    attempts: Sequence[Tried], endpoint: str, peers: int, fault: tuple[float, float]
) -> float | None:
    """Seconds from the fault's begin to the first second in which an endpoint got at most LEFT_OUT
    of its fair share of its tier's attempts; None when there was no such second in the fault."""
    begun = sorted((tried.started, tried.endpoint == endpoint) for tried in attempts)
    start = fault[0]
    while start + 1.0 <= fault[1]:
        window = [ours for at, ours in begun if start <= at < start + 1.0]
        if len(window) >= FEWEST and sum(window) <= LEFT_OUT * len(window) / peers:
            return start - fault[0]
        start += 0.1
    return None


def share_of(calls: Sequence[Call], endpoint: str) -> float | None:
    """The share of all attempts that went to one endpoint."""
    attempts = [tried for call in calls for tried in call.attempts]
    sent = sum(tried.endpoint == endpoint for tried in attempts)
    return sent / len(attempts) if attempts else None


def _kind(error: str) -> str:
    return error.partition(":")[0]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
