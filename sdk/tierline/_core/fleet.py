"""All endpoints a client knows, with what it believes of each; shared by all of its calls.

The fleet has no lock: a shell that runs calls in several threads holds one around every step.
"""

from __future__ import annotations

from collections.abc import Collection

from tierline._config import ClientConfig, Endpoint, Sovereignty, Tier
from tierline._core.balancing import choose, ring_points
from tierline._core.breaker import Breaker
from tierline._core.dice import Dice
from tierline._core.estimators import LatencyWindow, PeakEwma, WindowCount, WindowedBudget
from tierline._core.fallback import LastGood, Prior


class EndpointState:
    """One endpoint and what is believed of it."""

    __slots__ = ("_breakers", "_policy", "inflight", "latency", "ring", "tier", "url", "weight")

    def __init__(self, endpoint: Endpoint, tier: str, config: ClientConfig) -> None:
        self.url = endpoint.url
        self.weight = endpoint.weight
        self.tier = tier
        self.inflight = 0
        self.latency = PeakEwma()
        self.ring = ring_points(endpoint.url)
        self._policy = config.breaker
        self._breakers: dict[str, Breaker] = {}

    def breaker(self, model: str) -> Breaker:
        """One breaker per model: a poisoned model must not close the endpoint to the others."""
        breaker = self._breakers.get(model)
        if breaker is None:
            breaker = self._breakers[model] = Breaker(self._policy)
        return breaker

    def load(self, now: float) -> float:
        return self.latency.value(now) * (self.inflight + 1) / self.weight + 1e-6 * self.inflight


class TierState:
    """One tier: its endpoints and its latencies by model."""

    def __init__(self, tier: Tier, config: ClientConfig) -> None:
        self.name = tier.name
        self.config = tier
        self.is_edge = tier.kind == "edge"
        self.balancing = tier.balancing
        self.endpoints = [EndpointState(e, tier.name, config) for e in tier.endpoints]
        self._latencies: dict[str, LatencyWindow] = {}
        self._turn = 0

    def latencies(self, model: str) -> LatencyWindow:
        window = self._latencies.get(model)
        if window is None:
            window = self._latencies[model] = LatencyWindow()
        return window

    def pick(
        self, model: str, avoid: Collection[str], key: str | None, now: float, dice: Dice
    ) -> EndpointState | None:
        """An endpoint whose breaker allows it and that is not to be avoided, or None."""
        usable = [
            endpoint
            for endpoint in self.endpoints
            if endpoint.url not in avoid and endpoint.breaker(model).allows(now)
        ]
        if not usable:
            return None
        self._turn += 1
        return choose(self.balancing, usable, key=key, turn=self._turn, now=now, dice=dice)

    def has_room(self, model: str, now: float) -> bool:
        """Whether any endpoint's breaker would let an attempt through."""
        return any(endpoint.breaker(model).allows(now) for endpoint in self.endpoints)


class Fleet:
    """Tiers in the order they are asked, the budgets over all of them, and the fallbacks."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.tiers = [TierState(tier, config) for tier in config.tiers]
        self.permitted = self.permitted_by(config.sovereignty)
        hedging = config.hedge.budget if config.hedge else 0.0
        escalation = config.escalation
        self.calls = WindowCount()  # every call of this client, for the budgets
        self.retries = WindowedBudget(
            self.calls, ratio=config.retry.budget, floor=config.retry.floor
        )
        self.hedges = WindowedBudget(self.calls, ratio=hedging)
        self.escalations = WindowedBudget(
            self.calls, ratio=escalation.budget, burst=escalation.burst
        )
        self.last_good = LastGood()
        self.priors: dict[str, Prior] = {}  # the popularity priors at hand, by model

    def permitted_by(self, policy: Sovereignty) -> list[TierState]:
        """The tiers a request may reach at all, in the order they are asked."""
        return [tier for tier in self.tiers if policy.permits(tier.config)]

    def endpoints(self) -> list[EndpointState]:
        return [endpoint for tier in self.tiers for endpoint in tier.endpoints]
