"""Hypothesis strategies over Tierline's values, to state an application's own properties.

>>> @given(config=configs(), seed=st.integers(0, 2**32))
... def test_a_page_is_never_empty(config, seed):
...     run = simulate(config, faults=["crash"], seed=seed)
...     assert all(outcome.answer or outcome.error for outcome in run.outcomes)
"""

from __future__ import annotations

from random import Random

import numpy as np

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
from tierline._exceptions import MissingExtra
from tierline.testing.faults import Fault, FaultKind, Schedule, draw_fault
from tierline.testing.privacy import draw_field_policy
from tierline.wire import CANDIDATE_IDS, ScoreRequest

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as missing:  # the SDK itself does not need it
    raise MissingExtra("testing", "tierline.testing.strategies") from missing

__all__ = ["configs", "fleets", "schedules", "score_requests"]

_SHARES = st.floats(0.0, 1.0)


@st.composite
def fleets(draw: st.DrawFn, *, most: int = 4) -> tuple[Tier, ...]:
    """One to three tiers, edge before cloud and private before public, of up to ``most``
    endpoints each, in one of two regions."""
    kinds = draw(
        st.sampled_from((("edge",), ("edge", "cloud"), ("edge", "cloud", "public"), ("cloud",)))
    )
    return tuple(
        Tier(
            name=name,
            kind="edge" if name == "edge" else "cloud",
            endpoints=tuple(
                Endpoint(url=f"http://{name}-{i}", weight=draw(st.sampled_from((1.0, 2.5))))
                for i in range(1, 1 + draw(st.integers(1, most)))
            ),
            region=draw(st.sampled_from(("eu", "us"))),
            trust="public" if name == "public" else "private",
            balancing=draw(st.sampled_from(Balancing)),
        )
        for name in kinds
    )


_RETRIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 6),
    per_tier=st.integers(1, 4),
    budget=_SHARES,
    floor=st.floats(0.0, 5.0),
)
_BREAKERS = st.builds(
    BreakerPolicy,
    window=st.floats(1.0, 20.0),
    minimum_calls=st.integers(1, 50),
    failure_rate=st.floats(0.1, 1.0),
    consecutive=st.integers(1, 10),
    open_for=st.floats(0.05, 1.0),
    open_cap=st.floats(1.0, 30.0),
    close_after=st.integers(1, 6),
)
_EJECTIONS = st.builds(
    EjectionPolicy,
    minimum_calls=st.integers(1, 50),
    consecutive=st.integers(1, 20),
    failure_share=st.floats(0.05, 1.0),
    eject_for=st.floats(0.1, 1.0),
    eject_cap=st.floats(1.0, 30.0),
    max_share=_SHARES,
    panic_below=_SHARES,
    panic=st.sampled_from(("ignore", "fail")),
    slow_start=st.floats(0.0, 30.0),
)
_LIMITERS = st.builds(
    LimiterPolicy,
    initial=st.integers(1, 256),
    minimum=st.just(1),
    maximum=st.integers(256, 1000),
)

_ESCALATIONS = st.builds(
    EscalationPolicy,
    threshold=st.none() | _SHARES,
    budget=_SHARES,
    burst=st.floats(0.0, 20.0),
    shadow=st.just(0.0) | _SHARES,
) | st.builds(
    EscalationPolicy,
    mode=st.sampled_from(("budget_first", "quality_first")),
    budget=_SHARES,
    burst=st.none() | st.floats(1.0, 20.0),
    cap=st.none() | st.just(1.0),
    shadow=st.just(0.0) | _SHARES,
)


@st.composite
def configs(draw: st.DrawFn, *, most: int = 4) -> ClientConfig:
    """A valid configuration: any fleet, any policy, a data policy that permits some tier."""
    tiers = draw(fleets(most=most))
    deadline = draw(st.floats(0.02, 1.0))
    hedges = st.builds(HedgePolicy, after=st.none() | st.floats(0.001, 0.019), budget=_SHARES)
    return ClientConfig(
        tiers=tiers,
        deadline=deadline,
        retry=draw(_RETRIES),
        hedge=draw(st.none() | hedges),
        breaker=draw(_BREAKERS),
        timeout=draw(st.builds(TimeoutPolicy, multiple=st.floats(1.0, 5.0))),
        ejection=draw(_EJECTIONS),
        limiter=draw(_LIMITERS),
        health=draw(st.none() | st.builds(HealthPolicy, interval=st.floats(1.0, 10.0))),
        escalation=draw(_ESCALATIONS),
        sovereignty=draw(st.sampled_from(_permitting(tiers)) | _FIELD_RULES),
    )


# Rules for the private fields that simulated calls carry; they keep no tier from every request.
_FIELD_RULES = st.builds(lambda n: draw_field_policy(Random(n)), st.integers(0, 2**32))


def _permitting(tiers: tuple[Tier, ...]) -> list[Sovereignty]:
    policies = [
        Sovereignty(),
        Sovereignty(trust="private"),
        Sovereignty(regions=("eu",)),
        Sovereignty(regions=("us",), trust="private"),
    ]
    return [policy for policy in policies if any(policy.permits(tier) for tier in tiers)]


@st.composite
def schedules(draw: st.DrawFn, config: ClientConfig, *, until: float = 4.0) -> Schedule:
    """Up to twelve faults on this configuration's endpoints, over before ``until`` seconds."""
    urls = [endpoint.url for tier in config.tiers for endpoint in tier.endpoints]
    kinds = draw(st.lists(st.sampled_from(FaultKind), max_size=12))
    faults: list[Fault] = []
    for kind in kinds:
        faults.append(draw_fault(Random(draw(st.integers(0, 2**32))), kind, urls, until))
    return tuple(sorted(faults, key=lambda fault: (fault.start, str(fault))))


@st.composite
def score_requests(draw: st.DrawFn, *, model: str = "ranker", items: int = 1000) -> ScoreRequest:
    """A valid request: a history, and candidates given as ids or the ``k`` best asked for."""
    ids = st.integers(1, items)
    history = np.array(draw(st.lists(ids, max_size=50)), np.int64)
    if draw(st.booleans()):
        k = draw(st.integers(1, 100))
        return ScoreRequest(model=model, query={"history": history}, k=k)
    candidates = np.array(draw(st.lists(ids, min_size=1, max_size=100)), np.int64)
    return ScoreRequest(
        model=model, query={"history": history}, candidates={CANDIDATE_IDS: candidates}
    )
