"""What a promise claims and whether a figure keeps it. Pure: reads no clock, file or process."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum

COMPARISONS: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "<=": ("≤", operator.le),
    ">=": ("≥", operator.ge),
    "==": ("=", operator.eq),
}


class Verdict(Enum):
    """How a claim came out; anything but KEPT falls short."""

    KEPT = "kept"
    MISSED = "MISSED"
    NOT_MEASURED = "NOT MEASURED"


class BadClaims(Exception):
    """The file of claims is wrong; the message names the claim and the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a figure is held against, e.g. ``<= 100``."""

    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Bar:
        """Read ``<= 100``; raises ValueError with the sentence that says what was expected."""
        comparison, _, limit = text.strip().partition(" ")
        if comparison not in COMPARISONS:
            raise ValueError(f"a bar is like '<= 100' with <=, >= or ==, got {text!r}")
        try:
            value = float(limit)
        except ValueError:
            raise ValueError(f"a bar ends in a number, like '<= 100', got {text!r}") from None
        if not math.isfinite(value):
            raise ValueError(f"a bar ends in a finite number, got {text!r}")
        return cls(comparison=comparison, limit=value)

    def holds(self, measured: float) -> bool:
        """Whether the figure keeps the bar; NaN keeps none."""
        return COMPARISONS[self.comparison][1](measured, self.limit)

    def __str__(self) -> str:
        return f"{COMPARISONS[self.comparison][0]} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One row of the table: what is claimed, the command that measures it, and the bar."""

    id: str
    promise: str
    group: str
    claim: str
    command: str
    key: str
    bar: Bar
    unit: str
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one command printed, or why it printed nothing usable."""

    values: Mapping[str, object]
    trouble: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A claim, the figure measured for it (None when there is none) and the verdict."""

    claim: Claim
    measured: float | None
    verdict: Verdict
    reason: str = ""


def parse_claims(document: Mapping[str, object]) -> tuple[Claim, ...]:
    """Read the parsed TOML of a claims file; raises BadClaims on anything unknown or missing."""
    unknown = set(document) - {"claim"}
    rows = document.get("claim")
    if unknown or not isinstance(rows, list) or not rows:
        raise BadClaims(f"a file of claims holds [[claim]] tables only, got {sorted(document)}")
    claims = tuple(_parse_claim(row, position) for position, row in enumerate(rows, start=1))
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise BadClaims(f"two claims are named {claim.id!r}: give each its own id")
        seen.add(claim.id)
    return claims


def _parse_claim(row: object, position: int) -> Claim:
    if not isinstance(row, dict):
        raise BadClaims(f"claim {position} is no table")
    name = f"claim {position} ({row.get('id', 'without id')})"
    expected = {field.name: (float if field.name == "minutes" else str) for field in fields(Claim)}
    wrong = sorted(set(row) ^ set(expected))
    if wrong:
        raise BadClaims(f"{name}: unknown or missing {', '.join(wrong)}")
    for key, kind in expected.items():
        value = row[key]
        right = isinstance(value, str) if kind is str else type(value) in (int, float)
        if not right:
            wanted = "a text" if kind is str else "a number"
            raise BadClaims(f"{name}: {key} must be {wanted}, got {value!r}")
    try:
        bar = Bar.parse(row["bar"])
    except ValueError as error:
        raise BadClaims(f"{name}: {error}") from None
    return Claim(**{**row, "bar": bar, "minutes": float(row["minutes"])})


def choose(claims: Sequence[Claim], only: str) -> tuple[Claim, ...]:
    """The claims whose id, group or promise is in the comma list; all when it is empty.

    Raises BadClaims for a name that chooses nothing: a mistyped name must not pass for success.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    if not names:
        return tuple(claims)
    known = {name for claim in claims for name in (claim.id, claim.group, claim.promise)}
    unknown = [name for name in names if name not in known]
    if unknown:
        groups = sorted({claim.group for claim in claims})
        raise BadClaims(f"nothing is named {', '.join(unknown)}; groups: {', '.join(groups)}")
    chosen = set(names)
    return tuple(c for c in claims if chosen & {c.id, c.group, c.promise})


def judge(claim: Claim, figures: Figures) -> Outcome:
    """Hold one claim against its command's figures."""
    if figures.trouble:
        return _not_measured(claim, figures.trouble)
    found = []
    for key in claim.key.split(" minus "):
        figure = _find(figures.values, key)
        if figure is None:
            return _not_measured(claim, f"the command printed no figure named {key!r}")
        if isinstance(figure, bool) or not isinstance(figure, int | float):
            return _not_measured(claim, f"{key!r} is {figure!r}, not a number")
        found.append(float(figure))
    measured = found[0] - sum(found[1:])
    verdict = Verdict.KEPT if claim.bar.holds(measured) else Verdict.MISSED
    reason = "" if verdict is Verdict.KEPT else f"measured {measured:g}, the bar is {claim.bar}"
    return Outcome(claim=claim, measured=measured, verdict=verdict, reason=reason)


def _find(values: object, key: str) -> object:
    """The figure under a dotted key, or None (which JSON's null is too: no figure)."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return None
        values = values[part]
    return values


def _not_measured(claim: Claim, reason: str) -> Outcome:
    return Outcome(claim=claim, measured=None, verdict=Verdict.NOT_MEASURED, reason=reason)
