"""Is this edge answer too uncertain to keep, and if so, what stands in the way of the cloud."""

from __future__ import annotations

from tierline._config import EscalationPolicy
from tierline.wire.messages import ScoreReply

START_GATE = 0.002  # an attempt with less time than this cannot come back


def is_uncertain(policy: EscalationPolicy, reply: ScoreReply) -> bool:
    """Whether the edge's own doubt exceeds the policy's threshold, or else the bundle's."""
    threshold = policy.threshold if policy.threshold is not None else reply.threshold
    if reply.uncertainty is None or threshold is None:
        return False
    return reply.uncertainty > threshold


def room_for_cloud(remaining: float, typical: float | None) -> bool:
    """Whether the cloud can still answer: its median latency fits into what remains."""
    return remaining >= max(START_GATE, typical or 0.0)
