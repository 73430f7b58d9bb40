"""Who is chosen, roll by roll: the exact share of every draw, on both sides of each boundary."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from tierline._config import (
    Balancing,
    ClientConfig,
    Criticality,
    EjectionPolicy,
    Endpoint,
    LimiterPolicy,
    Tier,
)
from tierline._core.balancing import choose, lesser, ring_points, two_of
from tierline._core.endpoints import UNKNOWN
from tierline._core.failover import first_level
from tierline._core.fleet import Fleet
from tierline._core.tiers import HEALTH_AGE, TierState

FIRST_AND_LAST = (9871465386022240484, 16501168258640327096)


class Rolls:
    """Dice that fall as the test says."""

    def __init__(self, *rolls: float) -> None:
        self._rolls = iter(rolls)

    def random(self) -> float:
        return next(self._rolls)


def tier_of(
    weights: Sequence[float],
    balancing: Balancing = Balancing.LEAST_LOADED,
    zones: str = "",
    **settings: Any,
) -> TierState:
    """A tier of endpoints e0, e1, … with these weights; of zone "-" are those without one."""
    endpoints = tuple(
        Endpoint(url=f"http://e{i}:1", weight=weight, zone=zone if zone != "-" else None)
        for i, (weight, zone) in enumerate(zip(weights, zones or "-" * len(weights), strict=True))
    )
    tier = Tier(name="edge", kind="edge", endpoints=endpoints, balancing=balancing)
    return Fleet(ClientConfig(tiers=(tier,), **settings)).tiers[0]


def chosen(tier: TierState, *rolls: float, now: float = 0.0, key: str | None = None) -> int:
    """The place of the one that is chosen, when the dice fall so."""
    dice = Rolls(*rolls)
    usable = tier.endpoints
    found = choose(tier.balancing, usable, key=key, turn=0, now=now, dice=dice)
    return usable.index(found)


def coming_back(tier: TierState, place: int, share: float, now: float = 0.0) -> None:
    """Let this endpoint have this share of its draws at this instant (slow start takes 30 s)."""
    tier.endpoints[place].standing.start_slowly(now - 30.0 * share)


# -- two of several ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_ordered_pair_of_different_endpoints_is_drawn_equally_often(count: int) -> None:
    endpoints = tier_of([1.0] * count).endpoints
    pairs = [
        two_of(endpoints, Rolls((first + 0.5) / count, (second + 0.5) / (count - 1)))
        for first in range(count)
        for second in range(count - 1)
    ]
    places = [(endpoints.index(one), endpoints.index(other)) for one, other in pairs]
    assert sorted(places) == list(itertools.permutations(range(count), 2))


@pytest.mark.parametrize(
    ("load", "other", "roll", "is_first"),
    [
        (0.01, 0.09, 0.5, False),  # ten times as busy as it is, in all but a tenth of the draws
        (0.01, 0.11, 0.5, True),
        (0.01, 0.09, 0.05, True),  # in that tenth as busy as it is
        (0.09, 0.01, 0.05, False),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_who_comes_back_seems_busier_by_its_share_in_all_draws_but_that_share(
    load: float, other: float, roll: float, is_first: bool, swapped: bool
) -> None:
    tier = tier_of([1.0, 1.0])
    back, peer = tier.endpoints
    coming_back(tier, 0, 0.1)
    back.latency.observe(load, 0.0)
    peer.latency.observe(other, 0.0)
    pair = (peer, back) if swapped else (back, peer)
    assert (lesser(*pair, 0.0, Rolls(roll)) is back) is is_first


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_that_come_back_each_seems_busier_by_its_own_share(swapped: bool) -> None:
    tier = tier_of([1.0, 1.0])
    later, sooner = tier.endpoints
    coming_back(tier, 0, 0.2)
    coming_back(tier, 1, 0.8)
    pair = (sooner, later) if swapped else (later, sooner)
    for load, is_later in ((0.024, True), (0.026, False)):  # 4 × 0.025 = 0.1
        later.latency.forget()
        sooner.latency.forget()
        later.latency.observe(load, 0.0)
        sooner.latency.observe(0.1, 0.0)
        assert (lesser(*pair, 0.0, Rolls(0.5)) is later) is is_later


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_idle_ones_that_come_back_the_one_with_more_of_its_share_is_asked(
    swapped: bool,
) -> None:
    tier = tier_of([1.0, 1.0])
    later, sooner = tier.endpoints
    coming_back(tier, 0, 0.2)
    coming_back(tier, 1, 0.8)
    pair = (sooner, later) if swapped else (later, sooner)
    assert lesser(*pair, 0.0, Rolls(0.5)) is sooner


def test_when_all_come_back_each_takes_part_in_its_share_of_the_draws() -> None:
    tier = tier_of([1.0, 1.0], Balancing.ROUND_ROBIN)
    coming_back(tier, 0, 0.25)
    coming_back(tier, 1, 0.75)
    assert chosen(tier, 0.5, 0.5) == 1
    assert chosen(tier, 0.25, 0.5) == 1  # not below its share
    assert chosen(tier, 0.2499, 0.5) == 0
    assert chosen(tier, 0.9, 0.9) == 0  # nobody takes part: then all do


def test_a_new_endpoint_with_attempts_out_expects_a_thousand_seconds_for_each() -> None:
    [endpoint] = tier_of([1.0]).endpoints
    for inflight in (0, 1, 3):
        endpoint.inflight = inflight
        assert endpoint.load(0.0) == UNKNOWN * inflight


def test_what_is_out_already_is_waited_for_and_weighed() -> None:
    [endpoint] = tier_of([4.0]).endpoints
    endpoint.latency.observe(0.02, 0.0)
    for inflight, expected in ((0, 0.005), (1, 0.01), (3, 0.02)):
        endpoint.inflight = inflight
        assert endpoint.load(0.0) == pytest.approx(expected, abs=1e-5)
    endpoint.inflight = 0
    endpoint.latency.observe(1e-9, 0.0)
    idle = endpoint.load(1e3)
    endpoint.inflight = 10
    assert endpoint.load(1e3) - idle == pytest.approx(1e-5, rel=1e-3)  # a tie goes to the idler


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roll", "place"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.7499, 1), (0.75, 2), (0.9999, 2)]
)
def test_a_weighted_draw_begins_with_each_endpoint_where_the_one_before_ends(
    roll: float, place: int
) -> None:
    assert chosen(tier_of([1.0, 2.0, 1.0], Balancing.WEIGHTED), roll) == place


def test_a_weighted_draw_that_rounding_lets_pass_everybody_is_the_last_ones() -> None:
    weights, roll = [0.1, 0.3, 0.7], float.fromhex("0x1.fffffffffffffp-1")
    left = roll * sum(weights)
    for weight in weights:
        left -= weight
    assert left >= 0.0  # the premise: nobody's part is reached
    assert chosen(tier_of(weights, Balancing.WEIGHTED), roll) == 2


# -- the ring ------------------------------------------------------------------------------------


def test_the_places_on_the_ring_are_the_same_in_every_process_and_every_release() -> None:
    points = ring_points("http://e0:1")
    assert len(points) == 64
    assert (points[0], points[-1]) == FIRST_AND_LAST


@pytest.mark.parametrize(
    ("weights", "home", "other", "stays"),
    [
        ((1.0, 1.0), 2, 1, True),  # 1.25 × 4 ÷ 2 = 2.5: up to three
        ((1.0, 1.0), 3, 0, False),
        ((1.0, 1.0), 4, 1, False),
        ((3.0, 1.0), 5, 1, True),  # 1.25 × 7 × 3 ÷ 4 = 6.6: up to seven
        ((3.0, 1.0), 14, 0, True),  # 14.1: up to fifteen
        ((3.0, 1.0), 15, 0, False),  # just fifteen
        ((1.0, 3.0), 2, 2, False),  # 1.6: up to two
    ],
)
def test_a_key_stays_while_its_endpoint_has_less_than_five_quarters_of_its_part(
    weights: tuple[float, float], home: int, other: int, stays: bool
) -> None:
    tier = tier_of(weights, Balancing.CONSISTENT_HASH)
    key = next(f"user-{i}" for i in range(99) if chosen(tier, key=f"user-{i}") == 0)
    for endpoint, count in zip(tier.endpoints, (home, other), strict=True):
        endpoint.inflight = count
    assert (chosen(tier, key=key) == 0) is stays


# -- levels and zones ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "rooms", "point", "level"),
    [
        ((0.0, 0.0), (True, True), 0.9, 0),  # nobody can take anything: as if all could
        ((0.0, 1.0), (True, True), 0.0, 1),
        ((0.7, 1.0), (True, True), 0.699, 0),
        ((0.7, 1.0), (True, True), 0.7, 1),
        ((0.7, 1.0), (True, False), 0.7, 0),  # no room: the first keeps it
        ((0.0, 0.7, 1.0), (True, False, True), 0.3, 1),  # its own part needs no room
        ((0.0, 0.7, 1.0), (True, True, False), 0.9, 1),  # back to who is first of those alive
        ((0.0, 0.7, 0.0, 1.0), (True, True, True, True), 0.7, 3),
    ],
)
def test_a_level_takes_what_lies_below_its_share_and_spills_what_does_not(
    shares: tuple[float, ...], rooms: tuple[bool, ...], point: float, level: int
) -> None:
    assert first_level(shares, rooms, point) == level


def picked(tier: TierState, rolls: int = 200, now: float = 0.0) -> set[str]:
    """Everybody who is picked in so many calls."""
    dice = random.Random(4)
    found = {tier.pick("m", (), None, now, dice) for _ in range(rolls)}
    return {endpoint.url[7:9] for endpoint in found if endpoint is not None}


def test_one_healthy_endpoint_of_its_own_zone_is_all_that_a_client_asks() -> None:
    assert picked(tier_of([1.0] * 2, zones="ab", zone="a")) == {"e0"}
    assert picked(tier_of([1.0] * 2, zones="ab", zone="b")) == {"e1"}


def test_a_client_without_a_zone_prefers_nobody_not_even_those_without_one() -> None:
    assert picked(tier_of([1.0] * 4, zones="--ab")) == {"e0", "e1", "e2", "e3"}
    by_turns = tier_of([1.0] * 4, Balancing.ROUND_ROBIN, zones="--ab")
    assert picked(by_turns, rolls=4) == {"e0", "e1", "e2", "e3"}


def test_a_tiers_health_is_believed_for_a_tenth_of_a_second_and_then_looked_at_again() -> None:
    tier = tier_of([1.0] * 4)
    assert tier.load_share("m", 0.0) == 1.0
    for endpoint in tier.endpoints[:3]:
        endpoint.breaker("m").trip(0.0, 1.0, "test")
    assert tier.load_share("m", 0.999 * HEALTH_AGE) == 1.0
    assert tier.load_share("other", 0.0) == 1.0
    assert tier.load_share("m", HEALTH_AGE) == pytest.approx(0.35)


# -- room ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criticality", "inflight", "is_asked"),
    [
        (Criticality.CRITICAL, 7, True),
        (Criticality.CRITICAL, 8, False),  # four fifths of ten
        (Criticality.SHEDDABLE, 4, True),
        (Criticality.SHEDDABLE, 5, False),  # half of ten is all the room it has
    ],
)
def test_a_hedge_goes_to_whom_it_leaves_a_fifth_of_the_limit_and_has_room_for_its_kind(
    criticality: Criticality, inflight: int, is_asked: bool
) -> None:
    tier = tier_of([1.0] * 2, limiter=LimiterPolicy(initial=10))
    running, other = tier.endpoints
    other.inflight = inflight
    target = tier.hedge_target("m", running, (), 0.0, random.Random(1), criticality)
    assert target is (other if is_asked else None)


def test_the_free_part_of_a_tier_is_that_of_all_limits_at_its_healthy_endpoints() -> None:
    tier = tier_of([1.0] * 4, limiter=LimiterPolicy(initial=10))
    one, two, three, four = tier.endpoints
    one.inflight, two.inflight, three.inflight = 4, 10, 12  # cut while they were out
    assert tier.headroom("m", 0.0) == pytest.approx(16 / 40)
    four.standing.probed(down=True, now=0.0)
    assert tier.headroom("m", 0.0) == pytest.approx(6 / 40)


def test_panic_begins_below_its_share_of_the_tier_and_not_at_it() -> None:
    tier = tier_of([1.0] * 4, ejection=EjectionPolicy(panic_below=0.5))
    for place, panics in ((0, False), (1, False), (2, True)):
        standing = tier.endpoints[place].standing
        standing.failed("m", 0.0, unreached=True)
        standing.eject(0.0, 0.5)
        found = picked(tier)
        assert (tier.panics > 0) is panics
        assert (found == {"e0", "e1", "e2", "e3"}) is panics
