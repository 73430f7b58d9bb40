"""What of a request a tier may see: each field allowed, dropped, hashed or generalised, or the tier
not asked at all. Pure; worked out at most once a call and tier, and not at all without rules.

Whatever a rule cannot do to a field (hash a boolean, round an integer to halves) is not sent in
some other way: the tier is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tierline import _exceptions as errors
from tierline._config import Sovereignty, Tier
from tierline._core.retrying import outcome_name
from tierline._sovereignty import CALL_ID, TRACEPARENT, FieldRule
from tierline.wire.messages import ScoreRequest, Tensors

Array = NDArray[Any]  # of any of the dtypes that travel
Treatment = tuple[FieldRule, bytes]  # what is done to a field, and the secret it is hashed with
Plan = dict[tuple[str, str], list[Treatment]]  # by space ("query", "candidates") and field
HASHED_ITEMSIZE = 2  # bytes; a hash of single bytes or booleans is a cipher a child can read
_ALLOW, _DROP, _FORBID = (
    FieldRule(name="*", action="allow"),
    FieldRule(name="*", action="drop"),
    FieldRule(name="*", action="forbid"),
)
_DEFAULTS = {None: _ALLOW, "allow": _ALLOW, "drop": _DROP, "forbid": _FORBID}


class View(NamedTuple):
    """A request as one tier may see it. ``reduced`` names the fields that are not as they were."""

    request: ScoreRequest
    reduced: tuple[str, ...]
    call_id: Sequence[bytes]  # a secret for each time the request id is hashed
    traceparent: Sequence[bytes] | None  # the same for the trace parent; None: it is left out

    def headers(self, call_id: str, traceparent: str | None) -> tuple[str, str | None]:
        """The request id and the trace parent to send to this tier."""
        for secret in self.call_id:
            call_id = _digest(secret, CALL_ID, call_id.encode(), 8).hex()
        if traceparent is None or self.traceparent is None:
            return call_id, None
        for secret in self.traceparent:
            hidden = _digest(secret, TRACEPARENT, traceparent.encode(), 24).hex()
            traceparent = f"00-{hidden[:32]}-{hidden[32:]}-00"
        return call_id, traceparent

    def __repr__(self) -> str:
        return f"<View of {self.request.model!r} without {', '.join(self.reduced) or 'nothing'}>"


class FieldGate:
    """One call's request as each tier may see it, under the client's rules and then the call's."""

    __slots__ = ("_plans", "_policies", "_request", "_views")

    def __init__(self, policies: Sequence[Sovereignty], request: ScoreRequest) -> None:
        self._policies = policies
        self._request = request
        self._plans: dict[str, Plan | None] = {}
        self._views: dict[str, View] = {}

    def asks(self, tier: Tier) -> bool:
        """Whether the tier may be asked at all; looks at names and types, not at values."""
        if tier.name not in self._plans:
            self._plans[tier.name] = plan(self._request, self._policies, tier)
        return self._plans[tier.name] is not None

    def view(self, tier: Tier) -> View:
        """What the tier may see. Raises NotPermitted for a tier that must not be asked."""
        seen = self._views.get(tier.name)
        if seen is None:
            treated = self._plans[tier.name] if self.asks(tier) else None
            if treated is None:
                raise errors.NotPermitted(f"the data policy keeps this request from {tier.name!r}")
            seen = self._views[tier.name] = _apply(treated, self._request, self._policies, tier)
        return seen


def gate_for(
    of_client: Sovereignty, of_call: Sovereignty | None, request: ScoreRequest
) -> FieldGate | None:
    """The gate of a call, or None when no field rule is in force: then nothing is worked out."""
    if not of_client.has_field_rules and (of_call is None or not of_call.has_field_rules):
        return None
    return FieldGate([p for p in (of_client, of_call) if p is not None], request)


def view(request: ScoreRequest, policies: Sequence[Sovereignty], tier: Tier) -> View | None:
    """The request as the tier may see it under every policy, or None: it must not be asked."""
    gate = FieldGate(policies, request)
    return gate.view(tier) if gate.asks(tier) else None


def rule_for(policy: Sovereignty, tier: Tier, space: str, field: str) -> FieldRule:
    """The first rule that speaks of this field and tier, or else the policy's default."""
    for rule in policy.fields:
        if rule.concerns(tier) and rule.names(space, field):
            return rule
    if space == "call" and (field == "id" or policy.default in (None, "allow")):
        return _ALLOW  # a call's id is random and says nothing of anybody
    return _DROP if space == "call" else _DEFAULTS[policy.default]


def plan(request: ScoreRequest, policies: Sequence[Sovereignty], tier: Tier) -> Plan | None:
    """What is done to each field, in order, or None when the tier must not be asked: a policy
    forbids it, a rule cannot be followed, or no candidate would be left."""
    treatments: Plan = {}
    left = 0
    for space, arrays in _spaces(request):
        for field, array in arrays.items():
            rules = [(rule_for(p, tier, space, field), p.secret or b"") for p in policies]
            if not all(_can(rule, space, array.dtype, array.ndim) for rule, _ in rules):
                return None
            treatments[space, field] = [entry for entry in rules if entry[0].action != "allow"]
            kept = all(rule.action != "drop" for rule, _ in rules)
            left += kept and space == "candidates"
    return None if request.candidates is not None and left == 0 else treatments


def withheld(error: errors.TierlineError) -> errors.TierlineError:
    """The same failure without the endpoint's own words, which may repeat what it was shown."""
    if isinstance(error, errors.ConnectFailed | errors.AttemptTimedOut | errors.AttemptLapsed):
        return error  # our own words
    hidden = type(error)(f"{outcome_name(error)} (what it said is withheld by the data policy)")
    if isinstance(error, errors.Overloaded) and isinstance(hidden, errors.Overloaded):
        hidden.retry_after = error.retry_after
    return hidden


def _spaces(request: ScoreRequest) -> list[tuple[str, Tensors]]:
    return [("query", request.query), ("candidates", request.candidates or {})]


def _can(rule: FieldRule, space: str, dtype: np.dtype[np.generic], rank: int) -> bool:
    """Whether the rule lets the field through in any shape, and can do to it what it says."""
    match rule.action:
        case "allow" | "drop":
            return True
        case "forbid":
            return False
        case "hash":
            fits = dtype.kind in "iu" or (dtype.kind == "f" and rule.buckets is None)
            return fits and dtype.itemsize >= HASHED_ITEMSIZE
        case "generalise":
            rows = rule.last is None or (space == "query" and rank > 0)
            whole = rule.step is None or dtype.kind == "f" or float(rule.step).is_integer()
            return rows and whole and (rule.step is None or dtype.kind in "iuf")


def _apply(
    treatments: Plan, request: ScoreRequest, policies: Sequence[Sovereignty], tier: Tier
) -> View:
    reduced: list[str] = []
    seen: dict[str, dict[str, Array]] = {}
    for space, arrays in _spaces(request):
        seen[space] = {}
        for field, given in arrays.items():
            left: Array | None = given
            for rule, secret in treatments[space, field]:
                left = None if left is None else _treated(left, field, rule, secret)
            if left is not None:
                seen[space][field] = left
            if left is not given:
                reduced.append(f"{space}.{field}")
    candidates: Mapping[str, Array] | None = seen["candidates"]
    if reduced:
        candidates = None if request.candidates is None else candidates
        request = request._replace(query=seen["query"], candidates=candidates)
    trace = _secrets(policies, tier, "traceparent")
    return View(request, tuple(reduced), _secrets(policies, tier, "id") or (), trace)


def _secrets(policies: Sequence[Sovereignty], tier: Tier, field: str) -> list[bytes] | None:
    """The secrets a header is hashed with, one after another, or None when it is left out. Each is
    the tier's own, so that two tiers cannot join what they saw."""
    rules = [(rule_for(policy, tier, "call", field), policy.secret) for policy in policies]
    if any(rule.action == "drop" for rule, _ in rules):
        return None
    hashed = [secret or b"" for rule, secret in rules if rule.action == "hash"]
    return [_digest(secret, "tier", tier.name.encode(), 32) for secret in hashed]


def _treated(array: Array, field: str, rule: FieldRule, secret: bytes) -> Array | None:
    if rule.action == "drop":
        return None
    if rule.action == "hash":
        return _hashed(array, field, rule.buckets, secret)
    if rule.last is not None and array.shape[0] > rule.last:
        array = array[-rule.last :]
    if rule.step is not None:
        lower = _lower(array, rule.step)
        return array if np.array_equal(lower, array) else lower
    return array


def _hashed(array: Array, field: str, buckets: int | None, secret: bytes) -> Array:
    """A pseudonym for each element: equal elements of a field stay equal, whatever their width.
    Integers become 1..buckets (or as many as the type holds), floats become one of [0, 1]."""
    values, places = np.unique(array, return_inverse=True)
    kind = array.dtype.kind
    hidden = np.empty(values.shape, array.dtype)
    top = 2**64 if kind == "f" else int(np.iinfo(array.dtype).max)
    top = min(buckets, top) if buckets is not None else top
    keyed = _keyed(secret, field, 16)
    for i, value in enumerate(values.tolist()):
        digest = keyed.copy()
        digest.update(repr(value + 0.0 if kind == "f" else value).encode())  # −0.0 equals 0.0
        number = int.from_bytes(digest.digest()) % top
        hidden[i] = number / top if kind == "f" else 1 + number
    return hidden[places].reshape(array.shape)


def _lower(array: Array, step: float) -> Array:
    """The lower edge of each element's bucket of width ``step``, within what the type holds."""
    if array.dtype.kind == "f":
        wide = array.astype(np.float64)
        with np.errstate(over="ignore"):
            edges = np.floor(wide / step) * step
        limits = np.finfo(array.dtype)
        bounded = np.clip(edges, float(limits.min), float(limits.max))
        return np.where(np.isfinite(wide), bounded, wide).astype(array.dtype)
    return _integer_edges(np.atleast_1d(array), int(step)).reshape(array.shape)


def _integer_edges(array: Array, width: int) -> Array:
    bounds, kind = np.iinfo(array.dtype), array.dtype.type
    lowest = kind(bounds.min)
    if width > bounds.max:  # two buckets, or one: below zero and from zero on
        edges: Array = np.where(array < kind(0), lowest, kind(0))
    else:
        rest = array % kind(width)
        edges = np.where(array < lowest + rest, lowest, array - rest)
    return edges


def _digest(secret: bytes, name: str, value: bytes, size: int) -> bytes:
    keyed = _keyed(secret, name, size)
    keyed.update(value)
    return keyed.digest()


def _keyed(secret: bytes, name: str, size: int) -> blake2b:
    """A keyed hash; the name keeps equal values of two fields apart."""
    key = secret if len(secret) <= blake2b.MAX_KEY_SIZE else blake2b(secret).digest()
    person = blake2b(name.encode(), digest_size=blake2b.PERSON_SIZE).digest()
    return blake2b(digest_size=size, key=key, person=person)
