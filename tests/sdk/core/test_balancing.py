"""Where calls go: by load, by key, by zone, slowly back, and into panic, in any state of a tier."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tierline._config import (
    Balancing,
    BreakerPolicy,
    ClientConfig,
    Criticality,
    EjectionPolicy,
    Endpoint,
    LimiterPolicy,
    Tier,
)
from tierline._core.balancing import BOUND
from tierline._core.breaker import State
from tierline._core.failover import first_level, load_share
from tierline._core.fleet import EndpointState, Fleet, TierState, by_priority

NEVER = 1_000_000


def fleet_of(
    count: int = 4,
    balancing: Balancing = Balancing.LEAST_LOADED,
    zones: str = "",
    **settings: Any,
) -> Fleet:
    endpoints = tuple(
        Endpoint(url=f"http://e{i}:1", zone=zones[i] if zones else None) for i in range(count)
    )
    tier = Tier(name="edge", kind="edge", endpoints=endpoints, balancing=balancing)
    return Fleet(ClientConfig(tiers=(tier,), **settings))


def pick(tier: TierState, now: float = 0.0, seed: int = 0, **options: Any) -> EndpointState | None:
    dice = options.pop("dice", random.Random(seed))
    key = options.pop("key", None)
    avoid = options.pop("avoid", ())
    return tier.pick("m", avoid, key, now, dice, **options)


def shares(tier: TierState, picks: int = 4000, now: float = 0.0, **options: Any) -> Counter[str]:
    dice = random.Random(5)
    chosen = Counter[str]()
    for i in range(picks):
        endpoint = pick(tier, now, dice=dice, **{"key": f"k{i}", **options})
        chosen[endpoint.url[7:9] if endpoint else "none"] += 1
    return chosen


def open_breaker(endpoint: EndpointState, now: float = 0.0, model: str = "m") -> None:
    breaker = endpoint.breaker(model)
    while breaker.state is not State.OPEN:
        permit = breaker.acquire(now, 1.0)
        assert permit is not None
        breaker.failed(permit, now, 1.0)


def eject(tier: TierState, place: int, now: float = 0.0) -> None:
    standing = tier.endpoints[place].standing
    standing.failed("m", now, unreached=True)
    standing.eject(now, 0.5)


# -- ejection, panic, slow start -----------------------------------------------------------------


@pytest.mark.parametrize("balancing", list(Balancing))
def test_an_ejected_endpoint_is_not_asked_and_then_slowly_again(balancing: Balancing) -> None:
    tier = fleet_of(4, balancing).tiers[0]
    eject(tier, 0)
    assert "e0" not in shares(tier, 400, now=0.5)
    early = shares(tier, now=2.0)["e0"] / 4000
    late = shares(tier, now=24.0)["e0"] / 4000
    whole = shares(tier, now=32.0)["e0"] / 4000
    assert early < 0.08
    assert early < late <= whole + 0.03
    assert 0.15 < whole < 0.35


@pytest.mark.parametrize("balancing", list(Balancing))
@pytest.mark.parametrize("key", [None, "k"])
def test_who_has_not_come_back_yet_leaves_the_others_to_be_asked_even_one_alone(
    balancing: Balancing, key: str | None
) -> None:
    tier = fleet_of(2, balancing).tiers[0]
    eject(tier, 0)
    asked = shares(tier, 400, now=2.0, key=key)
    assert asked["e1"] > asked["e0"]
    assert asked["none"] == 0


def test_a_ring_without_a_key_chooses_as_least_loaded_does_whoever_is_coming_back() -> None:
    ring, least = (
        fleet_of(3, balancing).tiers[0]
        for balancing in (Balancing.CONSISTENT_HASH, Balancing.LEAST_LOADED)
    )
    for tier in (ring, least):
        eject(tier, 0)
        tier.endpoints[1].inflight = 2
    asked, expected = (shares(tier, 400, now=9.0, key=None) for tier in (ring, least))
    assert asked == expected
    assert asked["e0"] > 0


def test_an_endpoint_that_comes_back_helps_peers_that_are_overloaded() -> None:
    tier = fleet_of(2).tiers[0]
    for endpoint in tier.endpoints:
        endpoint.latency.observe(0.01, 2.0)
    eject(tier, 0, now=0.0)
    tier.endpoints[1].inflight = 100
    assert shares(tier, 100, now=2.0)["e0"] == 100  # ten times less loaded, a tenth of its share


def test_with_less_than_half_left_ejections_are_ignored_and_breakers_are_not() -> None:
    tier = fleet_of(4).tiers[0]
    open_breaker(tier.endpoints[0])
    eject(tier, 1)
    assert set(shares(tier, 200)) == {"e2", "e3"}
    eject(tier, 2)
    assert set(shares(tier, 200)) == {"e1", "e2", "e3"}
    assert tier.panics > 0


def test_panic_may_fail_fast_instead() -> None:
    tier = fleet_of(4, ejection=EjectionPolicy(panic="fail")).tiers[0]
    eject(tier, 1)
    eject(tier, 2)
    assert set(shares(tier, 100)) == {"e0", "e3"}
    open_breaker(tier.endpoints[0])
    assert set(shares(tier, 100)) == {"none"}


def test_a_lone_endpoint_that_probes_call_down_is_asked_anyway() -> None:
    tier = fleet_of(1).tiers[0]
    tier.endpoints[0].standing.probed(down=True, now=0.0)
    assert pick(tier) is tier.endpoints[0]


# -- load ----------------------------------------------------------------------------------------


def test_a_new_endpoint_gets_one_attempt_at_a_time_until_it_has_answered() -> None:
    tier = fleet_of(2).tiers[0]
    tier.endpoints[0].latency.observe(0.005, 0.0)
    assert pick(tier) is tier.endpoints[1]
    tier.endpoints[1].inflight = 1
    tier.endpoints[0].inflight = 50
    assert pick(tier) is tier.endpoints[0]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=6), st.integers(0, 10**6))
def test_no_endpoint_of_a_ring_gets_more_than_its_bound(inflight: list[int], key: int) -> None:
    tier = fleet_of(len(inflight), Balancing.CONSISTENT_HASH).tiers[0]
    for endpoint, count in zip(tier.endpoints, inflight, strict=True):
        endpoint.inflight = count
    chosen = pick(tier, key=f"user-{key}")
    assert chosen is not None
    mean = (sum(inflight) + 1) / len(inflight)
    assert chosen.inflight + 1 <= BOUND * mean + 1


def test_a_key_returns_to_its_endpoint_when_that_has_room_again() -> None:
    tier = fleet_of(3, Balancing.CONSISTENT_HASH).tiers[0]
    home = pick(tier, key="user")
    assert home is not None
    home.inflight = 30
    assert pick(tier, key="user") is not home
    home.inflight = 0
    assert pick(tier, key="user") is home


def test_who_is_full_is_passed_over_and_the_lesser_kind_of_call_first() -> None:
    tier = fleet_of(2, limiter=LimiterPolicy(initial=10)).tiers[0]
    tier.endpoints[0].inflight = 9
    assert pick(tier) is tier.endpoints[1]
    tier.endpoints[1].inflight = 5
    assert pick(tier, criticality=Criticality.SHEDDABLE) is None
    assert pick(tier) is tier.endpoints[1]
    tier.endpoints[1].inflight = 9
    assert pick(tier) is None
    assert tier.is_full("m", 0.0, Criticality.DEFAULT)
    assert pick(tier, criticality=Criticality.CRITICAL) is not None


def test_while_its_peers_are_full_an_open_breaker_is_tried_early() -> None:
    tier = fleet_of(2, limiter=LimiterPolicy(initial=10)).tiers[0]
    bad, full = tier.endpoints
    open_breaker(bad)
    probe = bad.breaker("m").acquire(1.0, 1.0)
    assert probe is not None
    bad.breaker("m").failed(probe, 1.0, 1.0)  # open for two seconds
    assert pick(tier, now=2.5) is full
    full.inflight = 10
    assert pick(tier, now=1.5) is None
    assert pick(tier, now=2.5) is bad
    open_breaker(full, 2.5)  # now nobody is full: both have failed
    assert pick(tier, now=2.6) is None


# -- zones and levels ----------------------------------------------------------------------------


def test_a_client_prefers_its_own_zone_while_that_is_well() -> None:
    tier = fleet_of(4, zones="aabb", zone="a").tiers[0]
    assert set(shares(tier, 400)) == {"e0", "e1"}
    open_breaker(tier.endpoints[0])
    spilt = shares(tier)
    assert 0.65 < spilt["e1"] / 4000 < 0.75  # 1.4 × one half
    open_breaker(tier.endpoints[1])
    assert set(shares(tier, 400)) == {"e2", "e3"}


def test_a_full_zone_spills_and_a_zone_of_strangers_changes_nothing() -> None:
    tier = fleet_of(2, zones="ab", zone="a", limiter=LimiterPolicy(initial=10)).tiers[0]
    tier.endpoints[0].inflight = 9
    assert pick(tier) is tier.endpoints[1]
    nowhere = fleet_of(4, zones="aabb").tiers[0]
    assert set(shares(nowhere, 400)) == {"e0", "e1", "e2", "e3"}


@pytest.mark.parametrize(("healthy", "share"), [(4, 1.0), (3, 1.0), (2, 0.7), (1, 0.35), (0, 0.0)])
def test_a_level_takes_fourteen_tenths_of_its_healthy_share(healthy: int, share: float) -> None:
    assert load_share(healthy, 4) == pytest.approx(share)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=5),
    st.floats(0, 1, exclude_max=True),
)
def test_no_level_that_can_take_nothing_is_chosen_and_none_without_room_is_spilt_to(
    levels: list[tuple[float, bool]], point: float
) -> None:
    level_shares = [share for share, _ in levels]
    rooms = [room for _, room in levels]
    chosen = first_level(level_shares, rooms, point)
    if sum(level_shares) > 0:
        assert level_shares[chosen] > 0
        own = next(i for i, share in enumerate(level_shares) if share > 0)
        assert chosen == own or rooms[chosen]


def test_levels_that_together_cannot_take_it_share_it_as_they_can() -> None:
    dice = random.Random(1)
    chosen = Counter(first_level((0.1, 0.3), (True, True), dice.random()) for _ in range(4000))
    assert chosen[1] / 4000 == pytest.approx(0.75, abs=0.03)


def _two_edges() -> Fleet:
    tiers = tuple(
        Tier(
            name=name,
            kind=kind,
            endpoints=tuple(Endpoint(url=f"http://{name}{i}:1") for i in range(2)),
        )
        for name, kind in (("near", "edge"), ("far", "edge"), ("cloud", "cloud"))
    )
    return Fleet(ClientConfig(tiers=tiers, limiter=LimiterPolicy(initial=10)))


def _begins(fleet: Fleet, now: float = 0.0) -> Counter[str]:
    dice = random.Random(2)
    kinds = Criticality.DEFAULT
    return Counter(by_priority(fleet.tiers, "m", now, dice, kinds)[0].name for _ in range(2000))


def test_calls_begin_with_the_next_tier_as_far_as_the_first_is_not_whole() -> None:
    fleet = _two_edges()
    assert set(_begins(fleet)) == {"near"}
    open_breaker(fleet.tiers[0].endpoints[0])
    begun = _begins(fleet, now=0.2)
    assert 0.65 < begun["near"] / 2000 < 0.75
    assert begun["cloud"] == 0  # another kind is an escalation or a fallback, not a spill
    open_breaker(fleet.tiers[0].endpoints[1], now=0.2)
    assert set(_begins(fleet, now=0.4)) == {"far"}


def test_a_tier_that_was_lost_gets_the_call_that_finds_out_that_it_is_back() -> None:
    fleet = _two_edges()
    for endpoint in fleet.tiers[0].endpoints:
        open_breaker(endpoint)
    assert set(_begins(fleet, now=0.4)) == {"far"}
    assert set(_begins(fleet, now=3.0)) == {"near"}  # its breakers' waits are over
    probes = [endpoint.breaker("m").acquire(3.0, 1.0) for endpoint in fleet.tiers[0].endpoints]
    assert None not in probes
    assert set(_begins(fleet, now=3.1)) == {"far"}  # while the probes are out, nobody else goes


def test_a_spill_is_capped_by_the_limiter_of_its_target() -> None:
    fleet = _two_edges()
    open_breaker(fleet.tiers[0].endpoints[0])
    for endpoint in fleet.tiers[1].endpoints:
        endpoint.inflight = 9
    assert set(_begins(fleet, now=0.2)) == {"near"}


# -- over time -----------------------------------------------------------------------------------


def flow(
    latency: Callable[[str, float], float | None], *, endpoints: int, seconds: float, rate: float
) -> list[tuple[float, str]]:
    """An open loop on one tier without breakers: ``latency`` is an endpoint's at an instant, None a
    failure at once. When and where attempts were sent."""
    off = BreakerPolicy(consecutive=NEVER, minimum_calls=NEVER)
    calm = EjectionPolicy(consecutive=NEVER, minimum_calls=NEVER)
    tier = fleet_of(endpoints, breaker=off, ejection=calm).tiers[0]
    dice, sent, out = random.Random(3), [], list[tuple[float, int, float, EndpointState]]()
    for i in range(int(seconds * rate)):
        now = i / rate
        while out and out[0][0] <= now:
            done, _, begun, endpoint = heapq.heappop(out)
            endpoint.inflight -= 1
            failed = latency(endpoint.url, begun) is None
            endpoint.latency.observe(0.25 if failed else done - begun, done)
        chosen = pick(tier, now, dice=dice)
        assert chosen is not None
        chosen.inflight += 1
        sent.append((now, chosen.url))
        heapq.heappush(out, (now + (latency(chosen.url, now) or 0.001), i, now, chosen))
    return sent


def test_an_endpoint_that_fails_fast_is_no_sink() -> None:
    sent = flow(
        lambda url, now: None if url == "http://e0:1" else 0.02, endpoints=10, seconds=10, rate=400
    )
    assert sum(url == "http://e0:1" for _, url in sent) <= len(sent) / 10


def test_an_endpoint_ten_times_slower_gets_two_percent_within_five_seconds() -> None:
    sent = flow(
        lambda url, now: 0.2 if url == "http://e0:1" and now > 2 else 0.02,
        endpoints=4,
        seconds=12,
        rate=400,
    )
    late = [url for at, url in sent if at >= 7]
    assert late.count("http://e0:1") <= 0.02 * len(late)


class BalancerMachine(RuleBasedStateMachine):
    """Whatever a tier has been through: who must not be asked is not, and who may be is found."""

    @initialize(balancing=st.sampled_from(Balancing), count=st.integers(1, 5), zoned=st.booleans())
    def start(self, balancing: Balancing, count: int, zoned: bool) -> None:
        zones = {"zones": "aabab"[:count], "zone": "a"} if zoned else {}
        limiter = LimiterPolicy(initial=6, minimum=6, maximum=6)
        self.tier = fleet_of(count, balancing, limiter=limiter, **zones).tiers[0]
        self.now = 0.0
        self.dice = random.Random(count)

    def endpoint(self, which: int) -> EndpointState:
        return self.tier.endpoints[which % len(self.tier.endpoints)]

    @rule(which=st.integers(0, 4))
    def open(self, which: int) -> None:
        breaker = self.endpoint(which).breaker("m")
        if breaker.state is State.CLOSED:
            open_breaker(self.endpoint(which), self.now)

    @rule(which=st.integers(0, 4))
    def eject(self, which: int) -> None:
        eject(self.tier, which % len(self.tier.endpoints), self.now)

    @rule(which=st.integers(0, 4), count=st.integers(0, 6))
    def load(self, which: int, count: int) -> None:
        self.endpoint(which).inflight = count

    @rule(which=st.integers(0, 4), down=st.booleans())
    def probe(self, which: int, down: bool) -> None:
        self.endpoint(which).standing.probed(down=down, now=self.now)

    @rule(span=st.floats(0, 40))
    def wait(self, span: float) -> None:
        self.now += span

    @rule(key=st.none() | st.sampled_from("xyz"), avoid=st.integers(-1, 4))
    def choose(self, key: str | None, avoid: int) -> None:
        shunned = () if avoid < 0 else (self.endpoint(avoid).url,)
        now, room = self.now, 5
        others = [e for e in self.tier.endpoints if e.url not in shunned and e.inflight < room]
        allowed = [e for e in others if e.breaker("m").allows(now)]
        well = [e for e in allowed if not e.standing.is_out("m", now)]
        panics = self.tier.panics
        chosen = pick(self.tier, now, key=key, avoid=shunned, dice=self.dice)
        if chosen is None:
            assert not well
            return
        assert chosen in others
        assert chosen in allowed or chosen.breaker("m").allows_early(now)
        assert chosen in well or self.tier.panics > panics or chosen not in allowed

    @invariant()
    def half_open_breakers_have_given_no_permit(self) -> None:
        if hasattr(self, "tier"):
            assert all(0.0 <= self.tier.load_share("m", self.now) <= 1.0 for _ in "x")
            assert 0.0 <= self.tier.headroom("m", self.now) <= 1.0


BalancerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
test_balancer_machine = BalancerMachine.TestCase
