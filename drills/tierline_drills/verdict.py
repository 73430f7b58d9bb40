"""Which bars of a drill hold: a bar names a figure of the report and a bound. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierline_drills.errors import BadExperiment

BOUNDS = ("at_most", "at_least", "exactly")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """``figure`` is a path into the report, its parts joined by dots: ``recovery.mttd``."""

    figure: str
    bound: str
    limit: float

    def holds(self, value: float | None) -> bool:
        """Whether the value is within the bound; a figure that is not there holds nothing."""
        if value is None:
            return False
        if self.bound == "at_most":
            return value <= self.limit
        if self.bound == "at_least":
            return value >= self.limit
        return value == self.limit

    def __str__(self) -> str:
        signs = {"at_most": "≤", "at_least": "≥", "exactly": "="}
        return f"{self.figure} {signs[self.bound]} {self.limit:g}"


def read_bar(value: Mapping[str, Any]) -> Bar:
    """A bar from its JSON. Raises BadExperiment."""
    if not isinstance(value, Mapping):
        raise BadExperiment(f"a bar is an object, got {value!r}")
    bounds = [name for name in BOUNDS if name in value]
    extra = sorted(set(value) - {"figure", *BOUNDS})
    if not isinstance(value.get("figure"), str) or len(bounds) != 1 or extra:
        raise BadExperiment(
            f"a bar is a figure and one of {', '.join(BOUNDS)}, as in "
            f'{{"figure": "recovery.mttd", "at_most": 0.5}}; got {dict(value)!r}'
        )
    limit = value[bounds[0]]
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise BadExperiment(f"bar {value['figure']}: the limit must be a number, got {limit!r}")
    return Bar(figure=value["figure"], bound=bounds[0], limit=float(limit))


def figure_at(document: Mapping[str, Any], path: str) -> float | None:
    """The number a dotted path leads to; None when there is none."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def judged(document: Mapping[str, Any], bars: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each bar with the value found and whether it holds."""
    rows = []
    for raw in bars:
        bar = read_bar(raw)
        value = figure_at(document, bar.figure)
        rows.append(
            {"bar": str(bar), "figure": bar.figure, "value": value, "holds": bar.holds(value)}
        )
    return rows
