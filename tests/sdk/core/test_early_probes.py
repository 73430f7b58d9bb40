"""While all others are full, who was left out is tried before its time, and comes back by answers.

One ejected endpoint of two leaves the other with twice its load; waiting out the whole time then
would refuse calls that a mended endpoint could take.
"""

from __future__ import annotations

import random

from tierline._config import (
    BreakerPolicy,
    ClientConfig,
    Criticality,
    EjectionPolicy,
    Endpoint,
    Tier,
)
from tierline._core.breaker import State
from tierline._core.endpoints import EndpointState
from tierline._core.fleet import Fleet
from tierline._core.tiers import TierState

from .fixtures import SURE, Driver

DICE = random.Random(1)
MODEL = "ranker"


def two_of_which_one_is_ejected() -> tuple[Fleet, TierState, EndpointState, EndpointState]:
    """At 0 s the first endpoint's breaker opened for a second and it was ejected for twenty."""
    endpoints = (Endpoint(url="http://a:1"), Endpoint(url="http://b:1"))
    config = ClientConfig(
        tiers=(Tier(name="edge", kind="edge", endpoints=endpoints),),
        breaker=BreakerPolicy(consecutive=1, close_after=2, open_for=1.0),
        ejection=EjectionPolicy(consecutive=1, eject_for=20.0, jitter=0.0),
    )
    fleet = Fleet(config)
    [tier] = fleet.tiers
    out, peer = tier.endpoints
    permit = out.breaker(MODEL).acquire(0.0, 1.0)
    assert permit is not None
    out.breaker(MODEL).failed(permit, 0.0, 0.5)
    tier.outliers.failed(out.standing, MODEL, 0.0, unreached=True, jitter=0.5)
    assert out.standing.is_ejected
    return fleet, tier, out, peer


def fill(endpoint: EndpointState) -> None:
    endpoint.inflight = max(endpoint.limiter.room.values())


def test_an_ejected_endpoint_is_left_alone_while_its_peer_has_room() -> None:
    _, tier, _, peer = two_of_which_one_is_ejected()
    assert {tier.pick(MODEL, (), None, 2.0 + i, DICE) for i in range(10)} == {peer}


def test_an_ejected_endpoint_is_tried_when_its_peer_is_full_but_not_before_its_breakers_wait() -> (
    None
):
    _, tier, out, peer = two_of_which_one_is_ejected()
    fill(peer)
    assert tier.pick(MODEL, (), None, 0.5, DICE) is None
    assert tier.pick(MODEL, (), None, 1.0, DICE) is out


def test_an_ejected_endpoint_that_is_full_itself_is_not_tried() -> None:
    _, tier, out, peer = two_of_which_one_is_ejected()
    fill(peer)
    out.inflight = out.limiter.room[Criticality.DEFAULT] - 1
    assert tier.pick(MODEL, (), None, 1.0, DICE) is out
    out.inflight += 1
    assert tier.pick(MODEL, (), None, 1.0, DICE) is None


def test_only_one_call_at_a_time_tries_it() -> None:
    fleet, tier, out, peer = two_of_which_one_is_ejected()
    fill(peer)
    assert Driver(fleet, begin=2.0).started.endpoint is out
    assert out.breaker(MODEL).state is State.HALF_OPEN
    assert tier.pick(MODEL, (), None, 2.0, DICE) is None


def test_once_calls_closed_its_breaker_it_is_no_longer_ejected_and_comes_back_slowly() -> None:
    fleet, tier, out, peer = two_of_which_one_is_ejected()
    fill(peer)
    for begin in (2.0, 2.1):
        Driver(fleet, begin=begin).succeed(SURE, begin + 0.01)
    assert out.breaker(MODEL).state is State.CLOSED
    assert not out.standing.is_out(MODEL, 2.2)
    assert out.standing.share(2.2) < 0.2
    assert tier.pick(MODEL, (), None, 2.2, DICE) is out


def test_an_ejection_after_that_is_doubled_for_it_was_not_well_for_long() -> None:
    fleet, tier, out, peer = two_of_which_one_is_ejected()
    fill(peer)
    for begin in (2.0, 2.1):
        Driver(fleet, begin=begin).succeed(SURE, begin + 0.01)
    tier.outliers.failed(out.standing, MODEL, 3.0, unreached=True, jitter=0.5)
    assert out.standing.is_out(MODEL, 32.9)  # at most the cap of thirty seconds
    assert not out.standing.is_out(MODEL, 33.1)


def test_who_is_down_by_the_probes_of_health_waits_for_their_word() -> None:
    _, tier, out, peer = two_of_which_one_is_ejected()
    out.standing.probed(down=True, now=0.5)
    fill(peer)
    assert tier.pick(MODEL, (), None, 15.0, DICE) is None
    out.standing.probed(down=False, now=16.0)
    assert tier.pick(MODEL, (), None, 16.0, DICE) is out


def test_whose_breaker_is_due_is_tried_before_a_peer_that_looks_better() -> None:
    _, tier, out, peer = two_of_which_one_is_ejected()
    out.standing.proven(0.5)
    peer.latency.observe(0.001, 0.5)
    out.latency.penalise(5.0, 0.6)
    assert {tier.pick(MODEL, (), None, 0.7, DICE) for _ in range(10)} == {peer}
    assert {tier.pick(MODEL, (), None, 1.1, DICE) for _ in range(10)} == {out}


def test_a_probe_that_hangs_is_given_up_when_its_attempts_time_is_over() -> None:
    fleet, _, out, peer = two_of_which_one_is_ejected()
    fill(peer)
    began = 1000.0
    Driver(fleet, begin=began)
    assert out.breaker(MODEL).state is State.HALF_OPEN
    for after in (0.26, 0.52):
        out.breaker(MODEL).allows(began + after)
    assert out.breaker(MODEL).opened_by == "lease"
