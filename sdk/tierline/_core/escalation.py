"""Is this edge answer too uncertain to keep, and if so, what stands in the way of the cloud."""

from __future__ import annotations

from collections.abc import Sequence

from tierline._config import EscalationPolicy
from tierline._core.fleet import Fleet, TierState
from tierline.wire.messages import ScoreReply

START_GATE = 0.002  # an attempt with less time than this cannot come back


def is_uncertain(policy: EscalationPolicy, reply: ScoreReply) -> bool:
    """Whether the edge's own doubt exceeds the policy's threshold, or else the bundle's."""
    threshold = policy.threshold if policy.threshold is not None else reply.threshold
    if reply.uncertainty is None or threshold is None:
        return False
    return reply.uncertainty > threshold


def refusal(
    fleet: Fleet, cloud: Sequence[TierState], model: str, remaining: float, now: float
) -> str:
    """Why the cloud is not asked ("breaker", "deadline" or "budget"), or "" when it is.

    ``remaining`` is what is left of the deadline, in seconds: the cloud's median latency must fit
    in. The budget is spent only when nothing else stands in the way.
    """
    reachable = [tier for tier in cloud if tier.has_room(model, now)]
    if not reachable:
        return "breaker"
    typical = reachable[0].latencies(model).quantile(0.5) or 0.0
    if remaining < max(START_GATE, typical):
        return "deadline"
    return "" if fleet.escalations.withdraw(now) else "budget"
