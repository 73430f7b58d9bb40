"""Which of several usable endpoints: pure choices over what the fleet believes of each.

An endpoint that comes back slowly counts with a part of its share in every one of them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from tierline._config import Balancing
from tierline._core.dice import Dice

if TYPE_CHECKING:
    from tierline._core.endpoints import EndpointState

RING_POINTS = 64  # per endpoint; spreads two endpoints within about 10 % of even
BOUND = 1.25  # no endpoint of a ring has more than this times the mean of attempts out


def choose(
    balancing: Balancing,
    usable: Sequence[EndpointState],
    *,
    key: str | None,
    turn: int,
    now: float,
    dice: Dice,
) -> EndpointState:
    """One of ``usable`` (not empty). ``turn`` counts the tier's choices, ``key`` is the call's."""
    if len(usable) == 1:
        return usable[0]
    if balancing is Balancing.CONSISTENT_HASH and key is None:
        balancing = Balancing.LEAST_LOADED  # a ring without a key: nothing to be faithful to
    if balancing is Balancing.LEAST_LOADED:
        return lesser(*two_of(usable, dice), now, dice)
    if any(endpoint.standing.ramp_from is not None for endpoint in usable):
        usable = _without_some_that_come_back(usable, now, dice)
    match balancing:
        case Balancing.ROUND_ROBIN:
            return usable[turn % len(usable)]
        case Balancing.RANDOM:
            return usable[int(dice.random() * len(usable))]
        case Balancing.WEIGHTED:
            return _weighted(usable, dice)
        case _:
            assert key is not None
            return _on_ring(usable, key)


def two_of(endpoints: Sequence[EndpointState], dice: Dice) -> tuple[EndpointState, EndpointState]:
    """Two different ones, drawn at random (there are two at least)."""
    first = int(dice.random() * len(endpoints))
    second = int(dice.random() * (len(endpoints) - 1))
    if second >= first:
        second += 1
    return endpoints[first], endpoints[second]


def lesser(one: EndpointState, other: EndpointState, now: float, dice: Dice) -> EndpointState:
    """The lesser loaded of two."""
    load, others = one.load(now), other.load(now)
    if one.standing.ramp_from is not None or other.standing.ramp_from is not None:
        # In its share of the draws an endpoint that comes back counts as any other; in the rest it
        # seems busier than it is, and still gets what an overloaded peer could not take.
        shares = one.standing.share(now), other.standing.share(now)
        if dice.random() >= min(shares):
            load, others = load / shares[0], others / shares[1]
            if load == others:
                return one if shares[0] >= shares[1] else other
    return one if load <= others else other


def _without_some_that_come_back(
    usable: Sequence[EndpointState], now: float, dice: Dice
) -> Sequence[EndpointState]:
    kept = [e for e in usable if e.standing.is_plain or dice.random() < e.standing.share(now)]
    return kept or usable


def _weighted(usable: Sequence[EndpointState], dice: Dice) -> EndpointState:
    point = dice.random() * sum(endpoint.weight for endpoint in usable)
    for endpoint in usable:
        point -= endpoint.weight
        if point < 0:
            return endpoint
    return usable[-1]


def ring_points(url: str) -> list[int]:
    """The endpoint's places on the ring; the same in every process and on every day."""
    return [_hash(f"{url}#{i}") for i in range(RING_POINTS)]


def _on_ring(usable: Sequence[EndpointState], key: str) -> EndpointState:
    """The endpoint after the key's place; the next with room while one has too much of the load
    (consistent hashing with bounded loads: Mirrokni, Thorup, Zadimoghaddam 2018)."""
    ring = sorted((point, i) for i, endpoint in enumerate(usable) for point in endpoint.ring)
    place = bisect_right(ring, (_hash(key), len(usable)))
    out = sum(endpoint.inflight for endpoint in usable) + 1  # the one to be placed included
    whole = sum(endpoint.weight for endpoint in usable)
    for step in range(len(ring)):
        endpoint = usable[ring[(place + step) % len(ring)][1]]
        if endpoint.inflight < ceil(BOUND * out * endpoint.weight / whole):
            return endpoint
    return usable[ring[place % len(ring)][1]]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
