"""Which level of priority a call begins with while the first is not whole: tiers, and zones in one.

Envoy's formula: a level can take 1.4 times its share of healthy members, at most all; what it
cannot take spills over to the next. Two of three endpoints healthy still take 93 %, one of two
70 %. What spills is capped by the target: a level without room takes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

OVERPROVISIONED = 1.4  # most tiers are built for a little more than their load


def load_share(healthy: int, total: int) -> float:
    """The share of the traffic that a level with so many healthy members can take."""
    return min(1.0, OVERPROVISIONED * healthy / total) if total else 0.0


def first_level(shares: Sequence[float], rooms: Sequence[bool], point: float) -> int:
    """The place of the level to begin with. ``shares`` are the levels' load shares in the order of
    priority, ``rooms`` says which have room for what is not theirs, ``point`` is in [0, 1)."""
    whole = sum(shares)
    if whole <= 0.0:
        return 0
    point *= min(1.0, whole)  # when all together cannot take it, each takes its part of it
    own = next(place for place, share in enumerate(shares) if share > 0.0)
    taken = 0.0
    for place, share in enumerate(shares):
        taken += share
        if point < taken:
            return place if place == own or rooms[place] else own
    return own
