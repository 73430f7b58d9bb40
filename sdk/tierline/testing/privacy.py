"""Private fields in every call, and a second, simpler reading of the policies that protect them.

The core decides by its own code what a tier may see; here the rules are read once more, field by
field, and held against the bytes that arrive, the headers, and every word that is told or logged.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tierline._config import Sovereignty, Tier
from tierline._sovereignty import Action, FieldRule

# The private fields, and the upper half of the eight bytes of their values: it occurs nowhere else,
# and the lower half is the call's number. As a float it is some 4e149.
FIELDS: Final = {
    ("query", "user"): 0x5EC1_2E70,
    ("query", "place"): 0x5EC2_2E71,
    ("candidates", "bid"): 0x5EC3_2E72,
}
FLOATS: Final = ("place",)
# What keeps nothing of a value: a step that is wider than any of them.
STEPS: Final = {"user": 2.0**62, "place": 1e155, "bid": 2.0**62}
_SECRET = b"a secret of the simulation"  # the same in every process

Array = NDArray[np.generic]


def private_arrays(number: int, rows: int | None) -> tuple[dict[str, Array], dict[str, Array]]:
    """The private fields of call ``number``: those of the query, and of its candidates, if any."""
    arrays: dict[str, dict[str, Array]] = {"query": {}, "candidates": {}}
    for (space, name), high in FIELDS.items():
        raw = np.full(1 if space == "query" else rows or 0, high << 32 | number, np.int64)
        arrays[space][name] = raw.view(np.float64) if name in FLOATS else raw
    return arrays["query"], {} if rows is None else arrays["candidates"]


def shows(words: str, number: int) -> bool:
    """Whether words for people or logs give a private value of this call away."""
    return any(text in words for text in decimals(number))


def decimals(number: int) -> Iterator[str]:
    """The private values of call ``number``, as words would give them."""
    for (_, name), high in FIELDS.items():
        value = high << 32 | number
        yield str(value)
        if name in FLOATS:
            yield repr(struct.unpack("<d", struct.pack("<q", value))[0])


def carried(body: bytes) -> Iterator[tuple[int, str, str]]:
    """Every private value these bytes hold: whose call's, and which field's."""
    for (space, name), high in FIELDS.items():
        mark = struct.pack("<I", high)
        end = body.find(mark) + len(mark)
        if end >= 8:
            (number,) = struct.unpack("<I", body[end - 8 : end - 4])
            yield int(number), space, name


def may_reach(policies: Iterable[Sovereignty], tier: Tier, *, rows: bool) -> bool:
    """Whether a call with the private fields may reach the tier at all. ``rows`` says that it has
    candidates."""
    spaces = ("query", "candidates") if rows else ("query",)
    return all(
        policy.permits(tier)
        and all(_action(policy, tier, *field) != "forbid" for field in FIELDS if field[0] in spaces)
        for policy in policies
    )


def may_see(policies: Iterable[Sovereignty], tier: Tier, space: str, name: str) -> bool:
    """Whether the tier may see a field ("call": a header) as it is."""
    return all(_action(policy, tier, space, name) == "allow" for policy in policies)


def _action(policy: Sovereignty, tier: Tier, space: str, name: str) -> str:
    names = [f"{space}.{name}", f"{space}.*"]
    if space != "call":
        names += [name, "*"]
    for rule in policy.fields:
        trusted = rule.trust is None or rule.trust == tier.trust
        local = rule.regions is None or tier.region in rule.regions
        if rule.name in names and trusted and local:
            return rule.action
    default = policy.default or "allow"
    if space == "call":  # an id is never left out, and forbids nothing
        return "allow" if name == "id" or default == "allow" else "drop"
    return default


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what would be written."""
        self.lines.append(f"{record.getMessage()} {record.__dict__!r}")


@contextmanager
def logs() -> Iterator[list[str]]:
    """Every line that Tierline logs in this process meanwhile, whatever the level."""
    listener, log = _Listener(), logging.getLogger("tierline")
    usual = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(listener)
    try:
        yield listener.lines
    finally:
        log.removeHandler(listener)
        log.setLevel(usual)


def draw_field_policy(rng: Random) -> Sovereignty:
    """A policy that keeps private fields from some tiers, in one way or another."""
    rules: list[FieldRule] = []
    for space, name in FIELDS:
        if rng.random() < 0.7:
            rules += _rules_for(rng, space, name)
    default: Action = rng.choice(("allow", "allow", "drop", "forbid"))
    if default != "allow":  # what every call needs is named
        named = ("history", "candidates.id")
        rules += [FieldRule(name=name, action="allow") for name in named]
    if rng.random() < 0.5:
        rules.append(FieldRule(name="call.id", action="hash", trust=_trust(rng)))
    traced: Action = rng.choice(("allow", "hash", "drop"))
    rules.append(FieldRule(name="call.traceparent", action=traced, trust=_trust(rng)))
    return Sovereignty(
        fields=tuple(rules),
        default=default,  # type: ignore[arg-type]  # one of the three
        secret=_SECRET,
    )


def _trust(rng: Random) -> Literal["public"] | None:
    return "public" if rng.random() < 0.5 else None


def _rules_for(rng: Random, space: str, name: str) -> Sequence[FieldRule]:
    """Allowed in some places, then treated in the rest, or in some of the rest."""
    action: Action = rng.choice(("drop", "drop", "hash", "forbid", "generalise"))
    step = STEPS[name] if action == "generalise" else None
    buckets = rng.choice((None, 64)) if action == "hash" and name not in FLOATS else None
    trust = rng.choice((None, "public", "private"))
    regions = rng.choice((None, None, ("eu",), ("us", "asia")))
    spelt = rng.choice((name, f"{space}.{name}"))
    treated = FieldRule(
        name=spelt,
        action=action,
        trust=trust,  # type: ignore[arg-type]  # one of the three
        regions=regions,
        step=step,
        buckets=buckets,
    )
    if regions is None and rng.random() < 0.4:
        return [FieldRule(name=spelt, action="allow", regions=("eu",)), treated]
    return [treated]
