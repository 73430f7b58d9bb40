"""One endpoint and what is believed of it: for each model, and as a whole."""

from __future__ import annotations

import math

from tierline._config import Balancing, ClientConfig, Criticality, Endpoint, Tier
from tierline._core.balancing import ring_points
from tierline._core.breaker import CLOSED, Breaker
from tierline._core.ejection import Standing
from tierline._core.estimators import PeakEwma, QueueHint
from tierline._core.limiter import Limiter

UNKNOWN = 1000.0  # seconds; a new endpoint gets one attempt at a time until it has answered one


class Served:
    """One model at one endpoint."""

    __slots__ = ("breaker", "bundle")

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.bundle = ""  # what it last answered from


class EndpointState:
    """One endpoint and what is believed of it."""

    __slots__ = (
        "_policy",
        "inflight",
        "is_within",
        "latency",
        "limiter",
        "models",
        "queue",
        "refused_at",
        "ring",
        "standing",
        "tier",
        "url",
        "weight",
        "zone",
    )

    def __init__(self, endpoint: Endpoint, tier: Tier, config: ClientConfig) -> None:
        self.url = endpoint.url
        self.weight = endpoint.weight
        self.zone = endpoint.zone
        self.tier = tier.name
        self.inflight = 0
        self.is_within = endpoint.url.startswith("embedded:")  # asked in this very process
        self.latency = PeakEwma()
        self.queue = QueueHint()
        self.limiter = Limiter(config.limiter)
        self.refused_at = -math.inf  # for load, the last time
        self.standing = Standing(config.ejection)
        self.models: dict[str, Served] = {}
        hashed = tier.balancing is Balancing.CONSISTENT_HASH
        self.ring = ring_points(endpoint.url) if hashed else []
        self._policy = config.breaker

    def served(self, model: str) -> Served:
        """What is believed of one model here."""
        served = self.models.get(model)
        if served is None:
            served = self.models[model] = Served(Breaker(self._policy))
        return served

    def breaker(self, model: str) -> Breaker:
        """One breaker per model: a poisoned model must not close the endpoint to the others."""
        return self.served(model).breaker

    def load(self, now: float) -> float:
        """The seconds one more attempt would have to expect here."""
        latency = self.latency.value(now)
        if latency == 0.0:
            return UNKNOWN * self.inflight
        load = latency * (self.inflight + 1) / self.weight + 1e-6 * self.inflight
        return load + self.queue.value(now)

    def is_askable(self, model: str, now: float, criticality: Criticality) -> bool:
        """Whether it may be asked without a second thought: in, its breaker closed, with room."""
        served = self.models.get(model)
        return (
            self.inflight < self.limiter.room[criticality]
            and (served is None or served.breaker.state is CLOSED)
            and (self.standing.is_plain or not self.standing.is_out(model, now))
        )

    def is_reachable(self, model: str, now: float) -> bool:
        """Whether neither an ejection nor a breaker keeps calls away."""
        return not self.standing.is_out(model, now) and self.breaker(model).allows(now)

    def is_healthy(self, model: str, now: float) -> bool:
        """Whether it takes its whole share: reachable, and its breaker closed."""
        closed = self.breaker(model).state is CLOSED
        return closed and not self.standing.is_out(model, now)
