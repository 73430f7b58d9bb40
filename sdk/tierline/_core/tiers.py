"""One tier: its endpoints, its latencies by model, its budget, and which endpoint is next."""

from __future__ import annotations

import math
from collections.abc import Collection

from tierline._config import Balancing, ClientConfig, Criticality, Tier
from tierline._core.balancing import choose, lesser, two_of
from tierline._core.breaker import State
from tierline._core.budgets import TierBudget, WindowedBudget
from tierline._core.dice import Dice
from tierline._core.ejection import Outliers
from tierline._core.endpoints import EndpointState
from tierline._core.estimators import LatencyWindow
from tierline._core.failover import first_level, load_share
from tierline._core.semantic import SemanticHealth

HEDGE_ROOM = 0.8  # an endpoint this full gets no hedges: they would double its load
HEALTH_AGE = 0.1  # seconds for which a tier's health is believed
PRESSED = 0.5  # seconds for which a refusal for load tells of the queue behind it


class TierState:
    """One tier of a fleet."""

    def __init__(
        self, tier: Tier, config: ClientConfig, floor: WindowedBudget, semantic: SemanticHealth
    ) -> None:
        self.name = tier.name
        self.config = tier
        self.is_edge = tier.kind == "edge"
        self.balancing = tier.balancing
        self.endpoints = [EndpointState(endpoint, tier, config) for endpoint in tier.endpoints]
        self.outliers = Outliers(config.ejection, [e.standing for e in self.endpoints])
        self.budget = TierBudget(config.retry.budget, floor)
        self.pressed_until = -math.inf  # till then nobody is worth asking after another here
        self.panics = 0  # choices made while too few endpoints were left to choose from
        self._policy = config.ejection
        self._semantic = semantic
        self._zone = config.zone if any(e.zone == config.zone for e in tier.endpoints) else None
        self._zoned = len({endpoint.zone for endpoint in tier.endpoints}) > 1
        self._latencies: dict[str, LatencyWindow] = {}
        self._health: dict[str, tuple[float, float]] = {}  # model → believed until, share
        self._turn = 0
        drawn = tier.balancing is Balancing.LEAST_LOADED and self._zone is None
        self._may_draw = drawn and len(self.endpoints) > 1

    def latencies(self, model: str) -> LatencyWindow:
        window = self._latencies.get(model)
        if window is None:
            window = self._latencies[model] = LatencyWindow()
        return window

    # -- choice ------------------------------------------------------------------------------

    def pick(
        self,
        model: str,
        avoid: Collection[str],
        key: str | None,
        now: float,
        dice: Dice,
        criticality: Criticality = Criticality.DEFAULT,
    ) -> EndpointState | None:
        """An endpoint that may be asked and is not to be avoided, or None."""
        if not avoid and self._semantic.is_clear:
            if self._may_draw:  # the usual case, in constant time: two drawn, nothing wrong
                one, other = two_of(self.endpoints, dice)
                if one.is_askable(model, now, criticality) and other.is_askable(
                    model, now, criticality
                ):
                    return lesser(one, other, now, dice)
            elif len(self.endpoints) == 1 and self.endpoints[0].is_askable(model, now, criticality):
                return self.endpoints[0]
        usable = self._usable(model, avoid, now, criticality)
        if not usable:
            return self._early(model, avoid, now, criticality)
        due = self._due(usable, model)
        if due is not None:
            return due
        if self._zone is not None and len(usable) > 1:
            usable = self._in_zone(usable, model, now, dice)
        self._turn += 1
        return choose(self.balancing, usable, key=key, turn=self._turn, now=now, dice=dice)

    def _usable(
        self, model: str, avoid: Collection[str], now: float, criticality: Criticality
    ) -> list[EndpointState]:
        """Who may be asked: neither ejected nor shunned, with a breaker that lets through and with
        room. When too few are left, ejections are ignored, or nobody is asked (panic)."""
        allowed = [e for e in self.endpoints if self._allows(e, model, now)]
        within = [e for e in allowed if not e.standing.is_out(model, now)]
        if len(within) < self._policy.panic_below * len(self.endpoints):
            self.panics += 1
            if self._policy.panic == "fail":
                return []
            within = allowed
        return [
            e for e in within if e.url not in avoid and e.inflight < e.limiter.room[criticality]
        ]

    def _due(self, usable: list[EndpointState], model: str) -> EndpointState | None:
        """Whose breaker wants to be tried, while somebody else could still answer. Left to their
        loads, an idle and fast peer would be preferred for as long as the failures are remembered,
        and nobody would find out that the endpoint is back."""
        if len(usable) > 1:
            for endpoint in usable:
                if endpoint.breaker(model).state is not State.CLOSED:
                    return endpoint
        return None

    def _early(
        self, model: str, avoid: Collection[str], now: float, criticality: Criticality
    ) -> EndpointState | None:
        """Who may be tried before its breaker's time, because everybody else is full: the tier
        would refuse the call, so that it has nothing to lose here, and needs what it finds out.
        Ejected ones, too: one that is out of two leaves the other with twice its load. But whom the
        probes of health call down they try themselves."""
        if not self.is_full(model, now, criticality):
            return None
        for endpoint in self.endpoints:
            breaker = endpoint.breaker(model)
            if (
                breaker.state is not State.CLOSED
                and not endpoint.standing.is_down
                and breaker.allows_early(now)
                and endpoint.url not in avoid
                and endpoint.inflight < endpoint.limiter.room[criticality]
            ):
                return endpoint
        return None

    def _allows(self, endpoint: EndpointState, model: str, now: float) -> bool:
        served = endpoint.served(model)
        if not served.breaker.allows(now):
            return False
        semantic = self._semantic
        return semantic.is_clear or not semantic.shuns(model, served.bundle, now)

    def _in_zone(
        self, usable: list[EndpointState], model: str, now: float, dice: Dice
    ) -> list[EndpointState]:
        """The endpoints of the client's own zone, as far as they can take the load."""
        near = [e for e in usable if e.zone == self._zone]
        far = [e for e in usable if e.zone != self._zone]
        own = [e for e in self.endpoints if e.zone == self._zone]
        healthy = sum(e.is_healthy(model, now) for e in own)
        shares = (load_share(healthy, len(own)) if near else 0.0, 1.0)
        level = first_level(shares, (True, bool(far)), dice.random())
        return (near, far)[level] or usable

    def hedge_target(
        self,
        model: str,
        running: EndpointState,
        avoid: Collection[str],
        now: float,
        dice: Dice,
        criticality: Criticality,
    ) -> EndpointState | None:
        """Who may answer instead of ``running``: another endpoint that is well and not busy, in
        another zone when the tier has several."""
        others = [
            e
            for e in self.endpoints
            if e is not running
            and e.url not in avoid
            and (not self._zoned or e.zone != running.zone)
            and e.is_healthy(model, now)
            and e.inflight < min(HEDGE_ROOM * e.limiter.limit, e.limiter.room[criticality])
            and (self._semantic.is_clear or self._allows(e, model, now))
        ]
        if not others:
            return None
        return choose(Balancing.LEAST_LOADED, others, key=None, turn=0, now=now, dice=dice)

    # -- how it fares ------------------------------------------------------------------------

    def refused(self, endpoint: EndpointState, model: str, now: float) -> None:
        """The endpoint refused a call for load. While every healthy one has just done so, another
        attempt would wait as long as the first, and time kept for it is time lost to both."""
        endpoint.refused_at = now
        healthy = (e.refused_at for e in self.endpoints if e.is_healthy(model, now))
        self.pressed_until = PRESSED + min(healthy, default=now)

    def has_room(self, model: str, now: float) -> bool:
        """Whether any endpoint's breaker and standing would let an attempt through."""
        return any(
            self._allows(e, model, now) and not e.standing.is_out(model, now)
            for e in self.endpoints
        )

    def is_full(self, model: str, now: float, criticality: Criticality) -> bool:
        """Whether endpoints could be asked, but every one of them has as many calls as it may."""
        reachable = [e for e in self.endpoints if e.is_reachable(model, now)]
        full = all(e.inflight >= e.limiter.room[criticality] for e in reachable)
        return bool(reachable) and full

    def headroom(self, model: str, now: float) -> float:
        """The part of all limits that is free: 1.0 when idle, 0.0 when full or all breakers are
        open. An endpoint that cannot be reached has none. Where only a breaker's probe could go,
        the whole is free: its permits are few, and unless one is used nothing ever heals."""
        healthy = [e for e in self.endpoints if e.is_healthy(model, now)]
        if not healthy:
            return float(self.has_room(model, now))
        whole = sum(e.limiter.limit for e in self.endpoints)
        return sum(max(0.0, e.limiter.limit - e.inflight) for e in healthy) / whole

    def load_share(self, model: str, now: float) -> float:
        """The share of its traffic that this tier can take, by the formula of failover."""
        known = self._health.get(model)
        if known is not None and now < known[0]:
            return known[1]
        healthy = sum(e.is_healthy(model, now) for e in self.endpoints)
        share = load_share(healthy, len(self.endpoints))
        self._health[model] = (now + HEALTH_AGE, share)
        return share

    def amplification(self, now: float) -> float:
        """Attempts ÷ requests at this tier over the last ten seconds."""
        return self.budget.amplification(now)

    def states(self, model: str) -> dict[str, State]:
        """Every endpoint's breaker for the model, by URL."""
        return {endpoint.url: endpoint.breaker(model).state for endpoint in self.endpoints}
