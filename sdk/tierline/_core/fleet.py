"""All endpoints a client knows, with what it believes of each; shared by all of its calls.

The fleet has no lock: a shell that runs calls in several threads holds one around every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tierline._config import ClientConfig, Criticality, Sovereignty
from tierline._core.budgets import WindowCount, WindowedBudget
from tierline._core.certified import Errand, ModelControl
from tierline._core.control import EscalationBucket
from tierline._core.dice import Dice
from tierline._core.endpoints import EndpointState
from tierline._core.escalation import Pressure
from tierline._core.failover import first_level
from tierline._core.fallback import LastGood, Prior
from tierline._core.semantic import SemanticHealth
from tierline._core.tiers import TierState

if TYPE_CHECKING:
    from tierline._core.probing import Prober

__all__ = ["EndpointState", "Fleet", "TierState"]


class Fleet:
    """Tiers in the order they are asked, the budgets over all of them, and the fallbacks."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.calls = WindowCount()  # every call of this client, for the budgets
        # Whatever a tier has not earned comes out of one floor: threads and tiers multiply it not.
        self.floor = WindowedBudget(WindowCount(), ratio=0.0, floor=config.retry.floor)
        self.semantic = SemanticHealth(config.breaker)
        self.tiers = [TierState(tier, config, self.floor, self.semantic) for tier in config.tiers]
        self.permitted = self.permitted_by(config.sovereignty)
        hedging = config.hedge.budget if config.hedge else 0.0
        escalation = config.escalation
        self.hedges = WindowedBudget(self.calls, ratio=hedging)
        self.escalations = WindowedBudget(
            self.calls, ratio=escalation.budget, burst=escalation.allowance
        )
        self.pressure = Pressure(escalation)
        kinds = {tier.is_edge for tier in self.permitted}
        self.is_paired = len(kinds) == 2  # there is an edge and a cloud to choose between
        self.cap = EscalationBucket(escalation.ratio, burst=escalation.allowance)
        self.controls: dict[str, ModelControl] = {}  # by model
        self.errands: deque[Errand] = deque()  # for a shell, once callers have been answered
        self.last_good = LastGood()
        self.priors: dict[str, Prior] = {}  # the popularity priors at hand, by model
        self.prober: Prober | None = None  # wants to know what was answered, when there is one

    def permitted_by(self, policy: Sovereignty) -> list[TierState]:
        """The tiers a request may reach at all, in the order they are asked."""
        return [tier for tier in self.tiers if policy.permits(tier.config)]

    def control(self, model: str) -> ModelControl:
        """The control of a model's escalations."""
        control = self.controls.get(model)
        if control is None:
            control = self.controls[model] = ModelControl(self.config.escalation, self.cap)
        return control

    def forget_inflight(self) -> None:
        """This process is a fork: what its parent has out is not out here."""
        for endpoint in self.endpoints():
            endpoint.inflight = 0
        self.errands.clear()

    def endpoints(self) -> list[EndpointState]:
        return [endpoint for tier in self.tiers for endpoint in tier.endpoints]

    def amplification(self, now: float) -> float:
        """Attempts ÷ requests over the last ten seconds, over all tiers."""
        asked = sum(tier.budget.requests.total(now) for tier in self.tiers)
        made = sum(tier.amplification(now) * tier.budget.requests.total(now) for tier in self.tiers)
        return made / asked if asked else 1.0


def by_priority(
    route: Sequence[TierState], model: str, now: float, dice: Dice, criticality: Criticality
) -> list[TierState]:
    """The route, with the tier that this call begins with in front: the first, or, for the part of
    the traffic that it cannot take, the next of the same kind with room. A tier before it of which
    nothing is healthy gets the call when a breaker there is due for its probe: as long as the next
    tier answers, nobody else would ever find out that it is back."""
    first = route[0]
    level = [tier for tier in route if tier.is_edge is first.is_edge]
    if len(level) == 1 or first.load_share(model, now) >= 1.0:
        return list(route)
    shares = [tier.load_share(model, now) for tier in level]
    rooms = [not tier.is_full(model, now, criticality) for tier in level]
    place = first_level(shares, rooms, dice.random())
    for earlier in range(place):
        if shares[earlier] <= 0.0 and level[earlier].has_room(model, now):
            place = earlier
            break
    chosen = level[place]
    return [chosen, *(tier for tier in route if tier is not chosen)]
