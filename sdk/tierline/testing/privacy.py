"""A private field in every call, and a second, simpler reading of the policies that protect it.

The core decides by its own code what a tier may see; here the rules are read once more, for this
one field alone, and held against the bytes that arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from random import Random

from tierline._config import Sovereignty, Tier
from tierline._sovereignty import Action, FieldRule

FIELD = "user"
_NAMES = (FIELD, f"query.{FIELD}", "*", "query.*")
_BASE = 0x5EC_12E7_0000_0000  # a number that occurs nowhere else
_HIGH = struct.pack("<q", _BASE)[4:]  # its upper half is in every private value
_SECRET = b"a secret of the simulation"  # the same in every process
_TRACED = FieldRule(name="call.traceparent", action="allow")  # how a call is known behind it


def private_value(number: int) -> int:
    """The private field of call ``number``: eight bytes to look for."""
    return _BASE + number


def shows(words: str, number: int) -> bool:
    """Whether words for people or logs give the private value away."""
    return str(private_value(number)) in words


def carried(body: bytes) -> int | None:
    """The call whose private value these bytes hold, if any does."""
    end = body.find(_HIGH) + len(_HIGH)
    if end < 8:
        return None
    (value,) = struct.unpack("<q", body[end - 8 : end])
    return int(value) - _BASE


def may_reach(policies: Iterable[Sovereignty], tier: Tier) -> bool:
    """Whether a call with the private field may reach the tier at all."""
    return all(p.permits(tier) and _action(p, tier) != "forbid" for p in policies)


def may_see(policies: Iterable[Sovereignty], tier: Tier) -> bool:
    """Whether the tier may see the private field as it is."""
    return all(_action(policy, tier) == "allow" for policy in policies)


def _action(policy: Sovereignty, tier: Tier) -> str:
    for rule in policy.fields:
        trusted = rule.trust is None or rule.trust == tier.trust
        local = rule.regions is None or tier.region in rule.regions
        if rule.name in _NAMES and trusted and local:
            return rule.action
    return policy.default or "allow"


def draw_field_policy(rng: Random) -> Sovereignty:
    """A policy that keeps the private field from some tiers, in one way or another."""
    action: Action = rng.choice(("drop", "hash", "forbid", "generalise"))
    step = 1000.0 if action == "generalise" else None
    if rng.random() < 0.5:
        rules: tuple[FieldRule, ...] = (
            FieldRule(name=f"query.{FIELD}", action=action, trust="public", step=step),
        )
    else:
        rules = (
            FieldRule(name=FIELD, action="allow", regions=("eu",)),
            FieldRule(name=FIELD, action=action, step=step),
        )
    return Sovereignty(fields=(*rules, _TRACED), default="allow", secret=_SECRET)
