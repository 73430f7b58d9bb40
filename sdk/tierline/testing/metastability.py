"""The metastability experiment: does a short loss of capacity end when the loss ends?

An open loop asks for 90 % of what a tier can compute; for two seconds four fifths of its workers
are gone. Naive retries then keep the tier busy with work nobody waits for any more. A retry
budget alone does not end it; servers that drop expired work do, and the budget halves the storm.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tierline._config import (
    Balancing,
    BreakerPolicy,
    ClientConfig,
    EjectionPolicy,
    Endpoint,
    LimiterPolicy,
    RetryPolicy,
    Tier,
    TimeoutPolicy,
)
from tierline.testing.faults import Fault, FaultKind
from tierline.testing.load import steady_load
from tierline.testing.nodes import NodeProfile
from tierline.testing.simulation import Plan, Run, run_plan

COMPUTE = 0.020  # seconds a request, always
WORKERS = 5  # of each endpoint
LOAD = 0.9  # of the capacity
LOSS_AT, LOSS_FOR, LEFT = 3.0, 2.0, 0.2  # when, how long, and what share of the workers stays
HEALED = 0.99  # share of a second's calls answered in time
_NEVER = 1_000_000  # of whatever would make a guard act
DEADLINE = 0.4  # seconds; half of it for the first attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What protects the tier. All of it off: what most clients do."""

    name: str
    budget: bool
    drops_expired: bool
    guards: bool = False  # breaker, ejection, limiter and measured timeouts


VARIANTS = (
    Variant(name="3 retries", budget=False, drops_expired=False),
    Variant(name="3 retries + budget", budget=True, drops_expired=False),
    Variant(name="3 retries + expired work dropped", budget=False, drops_expired=True),
    Variant(name="budget + expired work dropped", budget=True, drops_expired=True),
    Variant(name="Tierline as it ships", budget=True, drops_expired=True, guards=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What each second of the run saw, by the second in which a call began."""

    variant: Variant
    seed: int
    good: tuple[float, ...]  # share of the calls answered in time
    attempts: tuple[float, ...]  # attempts for each call

    @property
    def healed_after(self) -> float | None:
        """Seconds from the loss's end until goodput is back for good, or None: never."""
        over = int(LOSS_AT + LOSS_FOR)
        sick = [i for i in range(over, len(self.good)) if self.good[i] < HEALED]
        if sick and sick[-1] == len(self.good) - 1:
            return None
        return float(sick[-1] + 1 - over) if sick else 0.0


def experiment(
    variant: Variant, *, seed: int = 0, endpoints: int = 2, seconds: int = 13
) -> Timeline:
    """Run one variant. ``endpoints`` scales capacity and load together."""
    rate = LOAD * endpoints * WORKERS / COMPUTE
    config = _config(variant, endpoints)
    profile = NodeProfile(
        workers=WORKERS,
        compute=COMPUTE,
        spread=0.0,
        queue=_NEVER,
        drops_expired=variant.drops_expired,
        doubt=0.0,
    )
    urls = [endpoint.url for endpoint in config.tiers[0].endpoints]
    run = run_plan(
        Plan(
            config=config,
            load=steady_load(rate, seconds, seed=seed),
            faults=tuple(Fault(FaultKind.CAPACITY, u, LOSS_AT, LOSS_FOR, LEFT) for u in urls),
            profiles=dict.fromkeys(urls, profile),
        ),
        seed=seed,
    ).check()
    return _timeline(variant, seed, run, seconds)


def _config(variant: Variant, endpoints: int) -> ClientConfig:
    """Half the deadline for the first attempt, and three retries."""
    tier = Tier(
        name="edge",
        kind="edge",
        endpoints=tuple(Endpoint(url=f"http://edge-{i}") for i in range(1, endpoints + 1)),
        balancing=Balancing.LEAST_LOADED,
    )
    free = RetryPolicy(attempts=4, per_tier=4, budget=1.0, floor=float(_NEVER))
    retry = RetryPolicy(attempts=4, per_tier=4) if variant.budget else free
    if variant.guards:
        return ClientConfig(tiers=(tier,), deadline=DEADLINE, retry=retry)
    return ClientConfig(
        tiers=(tier,),
        deadline=DEADLINE,
        retry=retry,
        breaker=BreakerPolicy(minimum_calls=_NEVER, consecutive=_NEVER, slow_multiple=_NEVER),
        ejection=EjectionPolicy(minimum_calls=_NEVER, consecutive=_NEVER),
        limiter=LimiterPolicy(initial=_NEVER, minimum=_NEVER, maximum=_NEVER),
        timeout=TimeoutPolicy(multiple=_NEVER),
    )


def _timeline(variant: Variant, seed: int, run: Run, seconds: int) -> Timeline:
    began: Counter[int] = Counter()
    good: Counter[int] = Counter()
    attempts: Counter[int] = Counter()
    for outcome in run.outcomes:
        second = int(outcome.began)
        began[second] += 1
        good[second] += outcome.answer is not None and outcome.answer.tier != "client"
        attempts[second] += len(outcome.attempts)
    return Timeline(
        variant=variant,
        seed=seed,
        good=tuple(good[i] / max(1, began[i]) for i in range(seconds)),
        attempts=tuple(attempts[i] / max(1, began[i]) for i in range(seconds)),
    )
