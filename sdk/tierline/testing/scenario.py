"""One scenario from one seed: a fleet, its policies, a load and the faults it must survive."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tierline._base_client import KEYED_BYTES
from tierline._config import (
    Balancing,
    BreakerPolicy,
    ClientConfig,
    EjectionPolicy,
    Endpoint,
    EscalationPolicy,
    HealthPolicy,
    HedgePolicy,
    LimiterPolicy,
    RetryPolicy,
    Sovereignty,
    Tier,
    TimeoutPolicy,
)
from tierline.testing.faults import Fault, FaultKind, draw_schedule
from tierline.testing.healing import SETTLING
from tierline.testing.load import Load, draw_load, steady_load
from tierline.testing.nodes import NodeProfile
from tierline.testing.privacy import draw_field_policy
from tierline.testing.simulation import Plan, Run, default_profile, run_plan

CHAOS = 4.0  # seconds of faults; everything is mended when they are over
PAUSE = 1.0  # seconds between the two: what crashed is cold no more
CALLS, SETTLING_CALLS, FINAL_CALLS = 28, 12, 6
HASTE = (0.003, 0.006, 0.015)  # seconds; what callers have who cannot wait
LONG = (1,) * (KEYED_BYTES // 8)  # items more than a key is made of
DOUBTERS, FINAL_DOUBTERS = 40, 12  # calls more, in scenarios whose edges are sure of nothing


def run_seed(seed: int) -> Run:
    """Run the scenario of this seed."""
    return run_plan(draw_plan(seed), seed=seed)


def draw_plan(seed: int) -> Plan:
    """The scenario of this seed."""
    rng = Random(f"{seed}/scenario")
    config = draw_config(rng)
    governed = _governed(config.escalation, Random(f"{seed}/control"))
    config = replace(config, escalation=governed)
    endpoints = [endpoint.url for tier in config.tiers for endpoint in tier.endpoints]
    plan = Plan(
        config=config,
        load=_draw_load(rng),
        faults=draw_schedule(rng, endpoints, until=CHAOS),
        profiles={
            endpoint.url: draw_profile(rng, tier.kind)
            for tier in config.tiers
            for endpoint in tier.endpoints
        },
        prepare=rng.random() < 0.3,
        must_heal_by=CHAOS + PAUSE + SETTLING,
    )
    crowd = Random(f"{seed}/doubters")
    if crowd.random() < 0.1:
        plan = _doubtful(plan, crowd)
    haste = Random(f"{seed}/haste")
    if haste.random() < 0.15:
        plan = _hurried(plan, haste)
    long = Random(f"{seed}/long")
    return _remembering(plan, long) if long.random() < 0.15 else plan


def _remembering(plan: Plan, rng: Random) -> Plan:
    """The same with callers in between whose history is too long to be the key of their call: where
    they name none, nothing says which endpoint they belong to."""
    load = tuple(
        replace(call, history=call.history + LONG) if rng.random() < 0.5 else call
        for call in plan.load
    )
    return replace(plan, load=load)


def _hurried(plan: Plan, rng: Random) -> Plan:
    """The same with callers in between who have less time than most answers take."""
    end = CHAOS + PAUSE + SETTLING
    load = tuple(
        replace(call, deadline=rng.choice(HASTE)) if call.at < end and rng.random() < 0.5 else call
        for call in plan.load
    )
    return replace(plan, load=load)


def _doubtful(plan: Plan, rng: Random) -> Plan:
    """The same with edges that are sure of nothing, and a cloud that is away after a while:
    escalation begins, stops, and must begin again."""
    config, endings = plan.config, CHAOS + PAUSE + SETTLING
    kind = rng.choice((FaultKind.CUT, FaultKind.REFUSE, FaultKind.FREEZE, FaultKind.ERRORS))
    away = tuple(
        Fault(kind, endpoint.url, 1.5, CHAOS - 1.5)
        for tier in config.tiers
        if tier.kind == "cloud"
        for endpoint in tier.endpoints
    )
    while_faults = steady_load(DOUBTERS / CHAOS, CHAOS)
    in_the_end = steady_load(20.0, FINAL_DOUBTERS / 20.0, start=endings)
    last = max(call.number for call in plan.load)
    doubters = tuple(
        replace(call, number=last + 1 + i, deadline=0.5)
        for i, call in enumerate((*while_faults, *in_the_end))
    )
    edges = {e.url for tier in config.tiers if tier.kind == "edge" for e in tier.endpoints}
    fixed = config.escalation.mode == "fixed"
    ample = EscalationPolicy(budget=1.0, burst=10.0, ease_below=rng.choice((0.0, 0.2)))
    return replace(
        plan,
        config=replace(config, escalation=ample if fixed else config.escalation),
        load=(*plan.load, *doubters),
        faults=(*plan.faults, *away),
        profiles={
            url: replace(profile, doubt=1.0) if url in edges else profile
            for url, profile in plan.profiles.items()
        },
    )


def _draw_load(rng: Random) -> Load:
    """Calls of every kind while faults last and while they heal; plain ones in the end."""
    policies: tuple[Sovereignty | None, ...] = (None, None, Sovereignty(regions=("eu",)))
    if rng.random() < 0.5:
        policies += (Sovereignty(trust="private"), draw_field_policy(rng))
    chaos = draw_load(rng, calls=CALLS, until=CHAOS, policies=policies)
    # One call at a time from here on: whoever half-opens has its probe to itself.
    settling = steady_load(SETTLING_CALLS / SETTLING, SETTLING, start=CHAOS + PAUSE)
    final = steady_load(20.0, FINAL_CALLS / 20.0, start=CHAOS + PAUSE + SETTLING)
    plain = tuple(
        replace(call, number=CALLS + 1 + i, deadline=0.5)
        for i, call in enumerate((*settling, *final))
    )
    return (*chaos, *plain)


def draw_config(rng: Random) -> ClientConfig:
    """A fleet of one to three tiers and policies of every temper."""
    tiers = [_tier(rng, "edge", "edge", 1 + int(rng.random() * 4))]
    if rng.random() < 0.75:
        tiers.append(_tier(rng, "cloud", "cloud", 1 + int(rng.random() * 2)))
    if rng.random() < 0.4:
        tiers.append(_tier(rng, "public", "cloud", 1 + int(rng.random() * 2), trust="public"))
    if len(tiers) > 1 and rng.random() < 0.1:
        del tiers[0]
    zones = sorted({e.zone for tier in tiers for e in tier.endpoints if e.zone})
    policies = (Sovereignty(trust="private"), Sovereignty(regions=("eu",)), draw_field_policy(rng))
    sovereignty = rng.choice((Sovereignty(),) * 3 + policies)
    if not any(sovereignty.permits(tier) for tier in tiers):
        sovereignty = Sovereignty()
    return ClientConfig(
        tiers=tuple(tiers),
        deadline=rng.choice((0.06, 0.12, 0.25)),
        retry=_retry(rng),
        hedge=rng.choice((None, HedgePolicy(), HedgePolicy(after=0.01, budget=0.3))),
        breaker=_breaker(rng),
        timeout=rng.choice((TimeoutPolicy(), TimeoutPolicy(multiple=1.0, floor=0.002))),
        ejection=_ejection(rng),
        limiter=rng.choice((LimiterPolicy(), LimiterPolicy(initial=4, maximum=8, samples=5))),
        health=rng.choice((None, None, None, HealthPolicy(interval=1.5, timeout=0.2))),
        zone=rng.choice((None, *zones)) if zones else None,
        escalation=_escalation(rng),
        sovereignty=sovereignty,
    )


def _tier(rng: Random, name: str, kind: str, size: int, trust: str = "private") -> Tier:
    zoned = rng.random() < 0.3
    return Tier(
        name=name,
        kind=kind,
        endpoints=tuple(
            Endpoint(
                url=f"http://{name}-{i}",
                weight=rng.choice((1.0, 1.0, 3.0)),
                zone="ab"[i % 2] if zoned else None,
            )
            for i in range(1, size + 1)
        ),
        region=rng.choice(("eu", "eu", "us")),
        trust=trust,
        balancing=rng.choice(list(Balancing)),
    )


def _retry(rng: Random) -> RetryPolicy:
    return RetryPolicy(
        attempts=rng.choice((1, 2, 4, 6)),
        per_tier=rng.choice((1, 2, 3)),
        budget=rng.choice((0.0, 0.1, 0.1, 0.5)),
        floor=rng.choice((0.0, 0.2, 1.0, 5.0)),
    )


def _breaker(rng: Random) -> BreakerPolicy:
    open_for = rng.choice((0.1, 0.5, 1.0))
    return BreakerPolicy(
        window=rng.choice((2.0, 10.0)),
        minimum_calls=rng.choice((4, 20)),
        failure_rate=rng.choice((0.3, 0.5)),
        slow_rate=rng.choice((0.5, 0.8)),
        slow_multiple=rng.choice((2.0, 5.0)),
        slow_share=rng.choice((0.1, 0.5)),
        consecutive=rng.choice((2, 3, 5)),
        open_for=open_for,
        open_cap=open_for * rng.choice((1.0, 4.0)),
        close_after=rng.choice((1, 2, 5)),
    )


def _ejection(rng: Random) -> EjectionPolicy:
    return EjectionPolicy(
        window=rng.choice((2.0, 10.0)),
        minimum_calls=rng.choice((4, 20)),
        consecutive=rng.choice((2, 5, 1000)),
        eject_for=rng.choice((0.2, 1.0)),
        eject_cap=rng.choice((1.0, 4.0)),
        max_share=rng.choice((0.5, 0.9)),
        panic_below=rng.choice((0.0, 0.5, 0.8)),
        panic=rng.choice(("ignore", "ignore", "fail")),
        slow_start=rng.choice((0.0, 2.0, 30.0)),
    )


def _escalation(rng: Random) -> EscalationPolicy:
    return EscalationPolicy(
        threshold=rng.choice((None, None, 0.3)),
        budget=rng.choice((0.0, 0.2, 0.5, 1.0)),
        burst=rng.choice((0.0, 2.0, 10.0)),
        ease_below=rng.choice((0.0, 0.2, 0.9)),
    )


def _governed(fixed: EscalationPolicy, rng: Random) -> EscalationPolicy:
    """The same with a share of shadows, and sometimes in a mode that moves the threshold."""
    shadow = rng.choice((0.0, 0.0, 0.02, 0.5))
    mode = rng.choice(("fixed", "fixed", "budget_first", "quality_first"))
    if mode == "fixed":
        return replace(fixed, shadow=shadow)
    return EscalationPolicy(
        mode=mode,  # type: ignore[arg-type]  # one of the two
        budget=fixed.budget,
        cap=rng.choice((None, 1.0)),
        burst=rng.choice((None, 1.0, 5.0)),
        step=rng.choice((0.01, 0.3)),
        shadow=shadow,
    )


def draw_profile(rng: Random, kind: str) -> NodeProfile:
    """A healthy node of this kind, a little unlike the others."""
    usual = default_profile(kind)
    return replace(
        usual,
        workers=rng.choice((1, 2, 4, 8)),
        compute=usual.compute * (0.5 + rng.random()),
        network=usual.network * (0.5 + rng.random()),
        queue=rng.choice((2, 8, 64)),
        doubt=usual.doubt * rng.choice((0.0, 1.0, 3.0)),
        drops_expired=rng.random() < 0.8,
        bundle=rng.choice((1, 1, 1, 2)),
    )
