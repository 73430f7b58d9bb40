"""Several runs of one drill told as one: each run's values, rates over all calls. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tierline_drills.statistics import provable, wilson
from tierline_drills.verdict import figure_at

Report = dict[str, Any]

# What is told of every run, beside the figures that its bars name.
TOLD = (
    "availability.failed",
    "availability.any",
    "availability.full",
    "recovery.mttd",
    "recovery.mttm",
    "recovery.mttr",
    "amplification.mean",
    "latency.all.p99",
    "safety.wrong_answers",
)


def pooled(reports: Sequence[Report]) -> Report:
    """The runs as one report. Counts are summed; shares are of all calls, with Wilson intervals;
    times are the longest of any run, and none when one run has none: a run that did not recover
    must not be hidden by those that did. ``values`` has each figure run by run."""
    figures = dict.fromkeys([*TOLD, *(row["figure"] for one in reports for row in one["bars"])])
    first = reports[0]
    return {
        "drill": first["drill"],
        "repeats": len(reports),
        "passed": all(one["passed"] for one in reports),
        "passed_runs": sum(one["passed"] for one in reports),
        "availability": _availability([one["availability"] for one in reports]),
        "recovery": {name: _longest(reports, f"recovery.{name}") for name in first["recovery"]},
        "amplification": {"mean": _longest(reports, "amplification.mean")},
        "safety": {"wrong_answers": _sum(reports, "safety.wrong_answers")},
        "values": {name: [figure_at(one, name) for one in reports] for name in figures},
        "bars": [
            {"bar": row["bar"], "held": sum(one["bars"][i]["holds"] for one in reports)}
            for i, row in enumerate(first["bars"])
        ],
    }


def _availability(parts: Sequence[Report]) -> Report:
    offered = sum(part["offered"] for part in parts)
    found: Report = {
        "offered": offered,
        "failed": sum(part["failed"] for part in parts),
        "late": sum(part["late"] for part in parts),
        "provable": provable(offered),
    }
    for name in ("any", "full"):
        good = sum(round((part[name] or 0.0) * part["offered"]) for part in parts)
        found[name] = good / offered if offered else None
        found[f"{name}_interval"] = wilson(good, offered)
    return found


def _longest(reports: Sequence[Report], path: str) -> float | None:
    values = [figure_at(one, path) for one in reports]
    found = [value for value in values if value is not None]
    return max(found) if found and len(found) == len(values) else None


def _sum(reports: Sequence[Report], path: str) -> float:
    return sum(figure_at(one, path) or 0.0 for one in reports)
