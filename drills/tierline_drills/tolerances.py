"""Whether a probe's value is what the hypothesis tolerates, in Chaos Toolkit's words. Pure.

A scalar must equal the value, a list must contain it, ``[low, high]`` of two numbers bounds it, and
an object names its way: regex, jsonpath, range (probes as tolerances are the runner's).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tierline_drills.errors import BadExperiment

_STEP = re.compile(r"\.([A-Za-z_][\w-]*)|\[(\d+|\*)\]|\['([^']+)'\]")


def tolerated(tolerance: Any, value: Any) -> bool:
    """Whether ``value`` (what a provider returned) is within ``tolerance``. An HTTP or process
    result given to a scalar is judged by its status. Raises BadExperiment for no tolerance."""
    if isinstance(tolerance, Mapping):
        return _named(tolerance, value)
    found = _scalar(value)
    if isinstance(tolerance, list | tuple):
        if len(tolerance) == 2 and all(_is_number(one) for one in tolerance) and _is_number(found):
            return bool(tolerance[0] <= found <= tolerance[1])
        return bool(found in tolerance)
    if isinstance(tolerance, bool) or isinstance(found, bool):
        return tolerance is found
    return bool(tolerance == found)


def _named(tolerance: Mapping[str, Any], value: Any) -> bool:
    kind = tolerance.get("type")
    if kind == "regex":
        found = _target(tolerance, value)
        return re.search(str(tolerance.get("pattern")), _text(found)) is not None
    if kind == "range":
        found = _target(tolerance, value)
        low, high = _bounds(tolerance)
        return bool(_is_number(found) and low <= found <= high)
    if kind == "jsonpath":
        return _path(tolerance, value)
    raise BadExperiment(f"tolerance of type {kind!r}; known: regex, range, jsonpath")


def _path(tolerance: Mapping[str, Any], value: Any) -> bool:
    body = _target(tolerance, value)
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return False
    found = found_at(body, str(tolerance.get("path")))
    if "expect" in tolerance:
        wanted = tolerance["expect"]
        return bool(found == (wanted if isinstance(wanted, list) else [wanted]))
    if "count" in tolerance:
        return bool(len(found) == tolerance["count"])
    return bool(found)


def found_at(value: Any, path: str) -> list[Any]:
    """What a JSONPath of names, indices and ``*`` leads to. Raises BadExperiment for others."""
    if not path.startswith("$"):
        raise BadExperiment(f"a jsonpath begins with $, got {path!r}")
    rest, here = path[1:], [value]
    while rest:
        step = _STEP.match(rest)
        if step is None:
            raise BadExperiment(f"{path!r}: only names, [index] and [*] are known here")
        name, rest = step[1] or step[3], rest[step.end() :]
        here = [deeper for one in here for deeper in _step(one, name, step[2])]
    return here


def _step(value: Any, name: str | None, index: str | None) -> list[Any]:
    if name is not None:
        return [value[name]] if isinstance(value, Mapping) and name in value else []
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    if index == "*":
        return list(value)
    position = int(index or 0)
    return [value[position]] if position < len(value) else []


def _target(tolerance: Mapping[str, Any], value: Any) -> Any:
    target = tolerance.get("target")
    if target and isinstance(value, Mapping) and target in value:
        return value[target]
    return value


def _bounds(tolerance: Mapping[str, Any]) -> tuple[float, float]:
    bounds = tolerance.get("range")
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(_is_number, bounds)):
        raise BadExperiment("a tolerance of type range needs range: [low, high]")
    return float(bounds[0]), float(bounds[1])


def _scalar(value: Any) -> Any:
    """Chaos Toolkit judges an HTTP answer by its status and a process by its exit code."""
    if isinstance(value, Mapping):
        for name in ("status", "status_code", "returncode"):
            if name in value:
                return value[name]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
