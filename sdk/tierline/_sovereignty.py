"""Where a request may go, and what a tier of a given trust and region may see of its fields."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from tierline._exceptions import ConfigurationError

if TYPE_CHECKING:
    from tierline._config import Tier

Action = Literal["allow", "drop", "hash", "generalise", "forbid"]
ACTIONS: Final = ("allow", "drop", "hash", "generalise", "forbid")
DEFAULTS: Final = ("allow", "drop", "forbid")
CALL_ID, TRACEPARENT = "call.id", "call.traceparent"
# What rides in a call's headers. An id is always sent (answers are matched by it), so it can be
# replaced but not left out; generalising either means nothing.
HEADER_ACTIONS: Final = {CALL_ID: ("allow", "hash"), TRACEPARENT: ("allow", "drop", "hash")}
ARRAYS: Final = ("query", "candidates")
SHORTEST_SECRET = 16  # bytes; ids are few, so a guessable secret is no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """What tiers of this ``trust`` in these ``regions`` (None: any) may see of one field.

    ``name`` is ``query.NAME``, ``candidates.NAME``, a bare ``NAME`` (either), ``*`` in place of a
    name, ``call.id`` (the request id) or ``call.traceparent``. ``action``: ``allow`` it as it is,
    ``drop`` it, ``hash`` it (keyed; ``buckets`` n maps integers into 1..n), ``generalise`` it
    (``last`` n entries of a query's array; down to a multiple of ``step``), or ``forbid`` the tier
    to be asked at all. Raises ConfigurationError.
    """

    name: str
    action: Action
    trust: Literal["private", "public"] | None = None
    regions: tuple[str, ...] | None = None
    last: int | None = None
    step: float | None = None
    buckets: int | None = None

    def __post_init__(self) -> None:
        self._require(bool(self.name) and not self.name.endswith("."), "name", "names no field")
        allowed: tuple[str, ...] = ACTIONS
        if self.name.startswith("call."):
            known = ", ".join(HEADER_ACTIONS)
            self._require(self.name in HEADER_ACTIONS, "name", f"must be one of {known}")
            allowed = HEADER_ACTIONS[self.name]
        known = f"must be one of {', '.join(allowed)}; got {self.action!r}"
        self._require(self.action in allowed, "action", known)
        trusts = (None, "private", "public")
        self._require(self.trust in trusts, "trust", "is 'private' or 'public', or left out")
        self._require(self.regions != (), "regions", "must name a region, or be left out")
        self._check_amounts()

    def _check_amounts(self) -> None:
        for amount, action in (("last", "generalise"), ("step", "generalise"), ("buckets", "hash")):
            given = getattr(self, amount)
            belongs = given is None or self.action == action
            self._require(belongs, amount, f"belongs to action '{action}', not '{self.action}'")
            self._require(given is None or given > 0, amount, f"must be positive, got {given}")
        if self.action == "generalise":
            some = self.last is not None or self.step is not None
            self._require(some, "action", "'generalise' needs 'last' or 'step'")
        rows = self.last is not None and self.name.startswith("candidates.")
        self._require(not rows, "last", "would leave candidates without a score; use 'step'")

    def _require(self, holds: bool, key: str, message: str) -> None:
        _require(holds, f"fields.{self.name}.{key}", message)

    def concerns(self, tier: Tier) -> bool:
        """Whether this rule speaks of the tier."""
        trusted = self.trust is None or self.trust == tier.trust
        return trusted and (self.regions is None or tier.region in self.regions)

    def names(self, space: str, field: str) -> bool:
        """Whether this rule speaks of the field: ``space`` is "query", "candidates" or "call"."""
        head, dot, tail = self.name.partition(".")
        if dot and head in (*ARRAYS, "call"):
            return head == space and tail in ("*", field)
        return space != "call" and self.name in ("*", field)

    def hides(self, later: FieldRule) -> bool:
        """Whether the later rule can never be reached because this one comes first."""
        head, dot, tail = later.name.partition(".")
        qualified = bool(dot) and head in (*ARRAYS, "call")
        spaces, field = ((head,), tail) if qualified else (ARRAYS, later.name)
        trusts = self.trust is None or self.trust == later.trust
        inside = later.regions is not None and set(later.regions) <= set(self.regions or ())
        regions = self.regions is None or inside
        return trusts and regions and all(self.names(space, field) for space in spaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sovereignty:
    """Where a request may go at all: tiers in one of ``regions`` (None: any), trusted at least as
    far as ``trust`` ("private": no public tier); and what they may see of it.

    The first of ``fields`` that speaks of a field and a tier decides; ``default`` ("allow", "drop"
    or "forbid"; required beside ``fields``) decides for the rest. Holds for every attempt of a
    call: first, failover, retry, hedge and escalation. ``secret`` keys the hashes; None takes one
    drawn for this process, so that pseudonyms last as long as it does. Raises ConfigurationError.
    """

    regions: tuple[str, ...] | None = None
    trust: Literal["private", "public"] = "public"
    fields: tuple[FieldRule, ...] = ()
    default: Literal["allow", "drop", "forbid"] | None = None
    secret: bytes | None = field(default=None, repr=False, compare=False)
    has_field_rules: bool = field(init=False, repr=False, compare=False)
    secret_is_drawn: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = self.trust in ("private", "public")
        _require(known, "trust", f"must be 'private' or 'public', got {self.trust!r}")
        _require(self.regions != (), "regions", "must name a region, or be left out")
        words = ", ".join(repr(action) for action in DEFAULTS)
        given = self.default is not None or not self.fields
        message = f"must be given beside fields, for those no rule names: one of {words}"
        _require(given, "default", message)
        known = self.default is None or self.default in DEFAULTS
        _require(known, "default", f"must be one of {words}, got {self.default!r}")
        long = self.secret is None or len(self.secret) >= SHORTEST_SECRET
        _require(long, "secret", f"must have at least {SHORTEST_SECRET} bytes")
        for i, rule in enumerate(self.fields):
            for earlier in self.fields[:i]:
                message = f"is never reached: the rule for {earlier.name!r} before it comes first"
                _require(not earlier.hides(rule), f"fields.{rule.name}", message)
        ruled = bool(self.fields) or self.default not in (None, "allow")
        object.__setattr__(self, "has_field_rules", ruled)
        drawn = self.secret is None and any(rule.action == "hash" for rule in self.fields)
        object.__setattr__(self, "secret_is_drawn", drawn)
        if drawn:
            object.__setattr__(self, "secret", process_secret())

    def permits(self, tier: Tier) -> bool:
        """Whether a request under this policy may reach the tier."""
        in_region = self.regions is None or tier.region in self.regions
        return in_region and (self.trust == "public" or tier.trust == "private")


def _require(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise ConfigurationError(message, key=f"sovereignty.{key}")


@cache
def process_secret() -> bytes:
    """The secret that fields are hashed with when none is given: random, one for this process (and
    those forked from it later), so that equal values stay equal from call to call."""
    return secrets.token_bytes(32)
