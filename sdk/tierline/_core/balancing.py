"""Which of several usable endpoints: pure choices over what the fleet believes of each."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tierline._config import Balancing
from tierline._core.dice import Dice

if TYPE_CHECKING:
    from tierline._core.fleet import EndpointState

RING_POINTS = 64  # per endpoint; spreads two endpoints within about 10 % of even


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
    match balancing:
        case Balancing.LEAST_LOADED:
            return _lesser_of_two(usable, now, dice)
        case Balancing.ROUND_ROBIN:
            return usable[turn % len(usable)]
        case Balancing.RANDOM:
            return usable[int(dice.random() * len(usable))]
        case Balancing.WEIGHTED:
            return _weighted(usable, dice)
        case Balancing.CONSISTENT_HASH:
            if key is None:  # nothing to be faithful to
                return _lesser_of_two(usable, now, dice)
            return _on_ring(usable, key)


def _lesser_of_two(usable: Sequence[EndpointState], now: float, dice: Dice) -> EndpointState:
    first = int(dice.random() * len(usable))
    second = int(dice.random() * (len(usable) - 1))
    if second >= first:
        second += 1
    a, b = usable[first], usable[second]
    return a if a.load(now) <= b.load(now) else b


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
    ring = sorted((point, i) for i, endpoint in enumerate(usable) for point in endpoint.ring)
    place = bisect_right(ring, (_hash(key), len(usable)))
    return usable[ring[place % len(ring)][1]]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
