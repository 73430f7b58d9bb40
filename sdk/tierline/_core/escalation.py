"""Is this edge answer too uncertain to keep, and if so, what stands in the way of the cloud.

In mode "fixed" the bundle's threshold decides; in the others ``control`` moves it. In the first,
budget and the cloud's room are spent on the most uncertain calls first. While both are ample, the
threshold decides alone. When little is left of either, it rises: of the calls that were lately
doubtful, only so large a part as there is room for is still escalated, the most certain being the
first to stay.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tierline._config import EscalationPolicy
from tierline._core.control import unit
from tierline.wire.messages import ScoreReply

if TYPE_CHECKING:
    from tierline._core.control import EscalationControl
    from tierline._core.fleet import Fleet
    from tierline._core.tiers import TierState

START_GATE = 0.002  # an attempt with less time than this cannot come back
REMEMBERED = 64  # doubtful calls that the raised threshold is read from
FEWEST = 16  # with fewer the threshold stays where it is
DEAD_BAND = 0.1  # how much more must be admitted again before the threshold falls
CERTAIN: Final = "certain"  # the verdict on an answer to be kept
ESCALATE: Final = ""  # the verdict on one that goes to the cloud; any other says why it does not
NO_CLOUD: Final = "no_cloud"
SPENT: Final = float("-inf")  # seconds that remain of a call that has made all of its attempts


class Pressure:
    """How far the threshold has risen. Told of every doubtful call's uncertainty."""

    __slots__ = ("_admitted", "_order", "_policy", "_recent")

    def __init__(self, policy: EscalationPolicy) -> None:
        self._policy = policy
        self._recent: deque[float] = deque()
        self._order: list[float] = []
        self._admitted = 1.0  # the part of doubtful calls that is escalated

    def admits(self, uncertainty: float, left: float) -> bool:
        """Whether this doubtful call is among those still escalated. ``left`` is the part of budget
        or room that is left, whichever is less, in [0, 1]."""
        self._remember(uncertainty)
        ease = self._policy.ease_below
        part = min(1.0, max(0.0, left) / ease) if ease else 1.0
        # It rises at once and falls with a dead band, or it would flutter with every token.
        if part < self._admitted or part >= min(1.0, self._admitted + DEAD_BAND):
            self._admitted = part
        if self._admitted >= 1.0 or len(self._order) < FEWEST:
            return True
        place = int((1.0 - self._admitted) * len(self._order))
        return place < len(self._order) and uncertainty >= self._order[place]

    def _remember(self, uncertainty: float) -> None:
        self._recent.append(uncertainty)
        insort(self._order, uncertainty)
        if len(self._recent) > REMEMBERED:
            self._order.remove(self._recent.popleft())


def is_uncertain(policy: EscalationPolicy, reply: ScoreReply) -> bool:
    """Whether the edge's own doubt exceeds the policy's threshold, or else the bundle's."""
    threshold = policy.threshold if policy.threshold is not None else reply.threshold
    if reply.uncertainty is None or threshold is None:
        return False
    return reply.uncertainty > threshold


def verdict(
    fleet: Fleet,
    control: EscalationControl,
    cloud: Sequence[TierState],
    model: str,
    reply: ScoreReply,
    remaining: float,
    now: float,
) -> str:
    """CERTAIN, ESCALATE, or why a call that should be escalated stays ("no_cloud", "attempts",
    "breaker", "deadline", "budget" or "threshold"). ``remaining`` is what is left of the deadline,
    in seconds, or SPENT. ``control``, the edge bundle's, is told of the call."""
    policy, doubt = fleet.config.escalation, reply.uncertainty
    if doubt is None:
        return CERTAIN
    if policy.moves:
        obstacle = ""
        if unit(doubt) > control.threshold:
            reachable = _reachable(cloud, model, now)
            obstacle = _obstacle(cloud, reachable, model, remaining, now)
        decision = control.decide(doubt, possible=not obstacle)
        if decision.escalate:
            return ESCALATE
        return (obstacle or decision.reason) if decision.reason else CERTAIN
    # After an alarm the whole budget goes to the most uncertain calls.
    wanted = is_uncertain(policy, reply) or (control.is_revoked and doubt > control.threshold)
    said = CERTAIN if not wanted else refusal(fleet, cloud, model, doubt, remaining, now)
    control.told(forced=said is not CERTAIN and said != ESCALATE, uncertainty=doubt)
    return said


def refusal(
    fleet: Fleet,
    cloud: Sequence[TierState],
    model: str,
    uncertainty: float,
    remaining: float,
    now: float,
) -> str:
    """Why the cloud is not asked ("no_cloud", "attempts", "breaker", "deadline", "budget" or
    "threshold"), or "" when it is.

    ``remaining`` is what is left of the deadline, in seconds, or SPENT: the cloud's median
    latency must fit in, as far as it was measured lately. The budget is spent only when nothing
    else stands in the way.
    """
    reachable = _reachable(cloud, model, now)
    obstacle = _obstacle(cloud, reachable, model, remaining, now)
    if obstacle:
        return obstacle
    balance = fleet.escalations.balance(now)
    if balance < 1.0:
        return "budget"
    capacity = fleet.escalations.capacity(now)
    headroom = max(tier.headroom(model, now) for tier in reachable)
    if not fleet.pressure.admits(uncertainty, min(balance / capacity, headroom)):
        return "threshold"
    return "" if fleet.escalations.withdraw(now) else "budget"


def _reachable(cloud: Sequence[TierState], model: str, now: float) -> list[TierState]:
    return [tier for tier in cloud if tier.has_room(model, now)]


def _obstacle(
    cloud: Sequence[TierState],
    reachable: Sequence[TierState],
    model: str,
    remaining: float,
    now: float,
) -> str:
    """What but the budget stands in the way, or ""."""
    if not cloud:
        return NO_CLOUD
    if remaining == SPENT:
        return "attempts"
    if not reachable:
        return "breaker"
    if remaining < max(START_GATE, reachable[0].latencies(model).lately_typical(now)):
        return "deadline"
    return ""
