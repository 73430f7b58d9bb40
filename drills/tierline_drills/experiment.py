"""An experiment in Chaos Toolkit's format: read, checked, its variables put in.

Pure but for reading the file. Stock fields keep their stock meaning
(chaostoolkit.org/reference/api/experiment); what is ours sits in the extension named "tierline".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tierline import MissingExtra
from tierline_drills.errors import BadExperiment
from tierline_drills.verdict import read_bar

PROVIDERS = ("python", "process", "http")
STRATEGIES = ("default", "always", "never", "deviated")
OWN = "tierline"
OWN_KEYS = frozenset({"fleet", "load", "stop", "bars", "negative", "repeats", "minutes", "report"})
_VARIABLE = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """An action or a probe. ``tolerance`` is what a probe's value must be (None: anything)."""

    kind: str  # "action" | "probe"
    name: str
    provider: Json
    tolerance: Any = None
    before: float = 0.0  # seconds of pause
    after: float = 0.0
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A module whose ``before_…_control`` and ``after_…_control`` are called around things."""

    name: str
    module: str
    arguments: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What one file says. ``own`` is the extension "tierline", ``document`` the whole file."""

    title: str
    description: str
    hypothesis: str
    probes: tuple[Activity, ...]
    method: tuple[Activity, ...]
    rollbacks: tuple[Activity, ...]
    controls: tuple[Control, ...] = ()
    configuration: Json = field(default_factory=dict)
    strategy: str = "always"
    own: Json = field(default_factory=dict)
    document: Json = field(default_factory=dict)

    @property
    def stops(self) -> tuple[Activity, ...]:
        """Probes asked again and again while the method runs; one out of tolerance ends it."""
        return tuple(
            read_activity(value, f"stop[{i}]") for i, value in enumerate(self.own.get("stop", ()))
        )

    def negative(self) -> Experiment:
        """The negative control: the same drill with what it is told to take away taken away."""
        changes = self.own.get("negative")
        if not changes:
            raise BadExperiment(f"{self.title!r} has no negative control: extensions.tierline")
        return self._with(_merged(self.own, changes), {"negative": True})

    def loaded(self, share: float) -> Experiment:
        """The same drill at this share of what its fleet carries, which it measures first. Raises
        BadExperiment."""
        if not 0 < share <= 1:
            raise BadExperiment(f"a load is a share in (0, 1] of the capacity, got {share:g}")
        return self._with(_merged(self.own, {"load": {"share": share}}), {})

    def _with(self, own: Json, arguments: Json) -> Experiment:
        controls = tuple(
            replace(one, arguments={**one.arguments, "own": own, **arguments})
            for one in self.controls
        )
        return replace(self, own=own, controls=controls)


def read_experiment(
    path: str | os.PathLike[str], variables: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment in a JSON or YAML file. Raises BadExperiment naming the place."""
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadExperiment(f"cannot read {place}: {error}") from error
    try:
        document = _yaml(text) if place.suffix in (".yaml", ".yml") else json.loads(text)
    except ValueError as error:
        raise BadExperiment(f"{place.name} cannot be parsed: {error}") from error
    try:
        return parse_experiment(document, variables)
    except BadExperiment as error:
        raise BadExperiment(f"{place.name}: {error}") from error


def parse_experiment(document: object, variables: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment in a parsed file. Raises BadExperiment."""
    if not isinstance(document, dict):
        raise BadExperiment("an experiment is an object")
    configuration = _configuration(document.get("configuration", {}), variables or {})
    filled = substituted(document, configuration)
    for name in ("title", "description"):
        said = filled.get(name)
        if not isinstance(said, str) or not said.strip():
            raise BadExperiment(f"{name} must be a sentence, got {said!r}")
    hypothesis = _object(filled, "steady-state-hypothesis")
    own = _own(filled.get("extensions") or [])
    rollbacks = _object(_object(filled, "runtime"), "rollbacks")
    strategy = rollbacks.get("strategy", "always")
    if strategy not in STRATEGIES:
        raise BadExperiment(f"runtime.rollbacks.strategy must be one of {', '.join(STRATEGIES)}")
    experiment = Experiment(
        title=filled["title"],
        description=filled["description"],
        hypothesis=str(hypothesis.get("title", "")),
        probes=_activities(hypothesis.get("probes"), "steady-state-hypothesis.probes", "probe"),
        method=_activities(filled.get("method"), "method"),
        rollbacks=_activities(filled.get("rollbacks"), "rollbacks", "action"),
        controls=_controls(filled.get("controls") or []),
        configuration=configuration,
        strategy=strategy,
        own=own,
        document=filled,
    )
    for probe in experiment.probes:
        if probe.tolerance is None:
            raise BadExperiment(f"probe {probe.name!r} of the hypothesis needs a tolerance")
    _ = experiment.stops
    return experiment


def substituted(value: Any, configuration: Mapping[str, Any]) -> Any:
    """``${name}`` replaced everywhere; a string that is nothing else takes the variable's type.
    Raises BadExperiment for a name the configuration does not have."""
    if isinstance(value, dict):
        return {key: substituted(one, configuration) for key, one in value.items()}
    if isinstance(value, list):
        return [substituted(one, configuration) for one in value]
    if not isinstance(value, str):
        return value

    def named(match: re.Match[str]) -> Any:
        if match[1] not in configuration:
            raise BadExperiment(f"${{{match[1]}}} is not in the configuration")
        return configuration[match[1]]

    whole = _VARIABLE.fullmatch(value)
    if whole:
        return named(whole)
    return _VARIABLE.sub(lambda match: str(named(match)), value)


def read_activity(value: object, where: str, kind: str | None = None) -> Activity:
    """One activity. Raises BadExperiment naming ``where``."""
    if not isinstance(value, dict):
        raise BadExperiment(f"{where} must be an object")
    found = value.get("type", kind or "probe")
    if found not in ("action", "probe") or (kind is not None and found != kind):
        raise BadExperiment(f"{where}.type must be {kind or 'action or probe'}, got {found!r}")
    name, provider = value.get("name"), value.get("provider")
    if not isinstance(name, str) or not name:
        raise BadExperiment(f"{where}.name must be text")
    pauses = _object(value, "pauses")
    return Activity(
        kind=found,
        name=name,
        provider=_provider(provider, f"{where} ({name})"),
        tolerance=value.get("tolerance"),
        before=_seconds(pauses.get("before", 0), f"{where} ({name}).pauses.before"),
        after=_seconds(pauses.get("after", 0), f"{where} ({name}).pauses.after"),
        background=bool(value.get("background", False)),
    )


def _object(values: Mapping[str, Any], name: str) -> Json:
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise BadExperiment(f"{name} must be an object, got {found!r}")
    return found


def _provider(value: object, where: str) -> Json:
    if not isinstance(value, dict) or value.get("type") not in PROVIDERS:
        raise BadExperiment(f"{where}.provider.type must be one of {', '.join(PROVIDERS)}")
    needed = {"python": ("module", "func"), "process": ("path",), "http": ("url",)}
    for name in needed[value["type"]]:
        if not isinstance(value.get(name), str):
            raise BadExperiment(f"{where}.provider.{name} must be text")
    return value


def _activities(values: object, where: str, kind: str | None = None) -> tuple[Activity, ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise BadExperiment(f"{where} must be a list")
    return tuple(read_activity(value, f"{where}[{i}]", kind) for i, value in enumerate(values))


def _controls(values: object) -> tuple[Control, ...]:
    if not isinstance(values, list):
        raise BadExperiment("controls must be a list")
    found = []
    for i, value in enumerate(values):
        provider = value.get("provider") if isinstance(value, dict) else None
        if not isinstance(provider, dict) or provider.get("type") != "python":
            raise BadExperiment(f"controls[{i}].provider.type must be python")
        if not isinstance(provider.get("module"), str):
            raise BadExperiment(f"controls[{i}].provider.module must be text")
        found.append(
            Control(
                name=str(value.get("name", provider["module"])),
                module=provider["module"],
                arguments=_object(provider, "arguments"),
            )
        )
    return tuple(found)


def _own(extensions: object) -> Json:
    if not isinstance(extensions, list):
        raise BadExperiment("extensions must be a list of objects with a name")
    own = [one for one in extensions if isinstance(one, dict) and one.get("name") == OWN]
    if not own:
        return {}
    values = {key: value for key, value in own[0].items() if key != "name"}
    if unknown := sorted(set(values) - OWN_KEYS):
        raise BadExperiment(f"extensions.tierline does not know {', '.join(unknown)}")
    for name in ("bars", "stop"):
        if not isinstance(values.get(name, []), list):
            raise BadExperiment(f"extensions.tierline.{name} must be a list")
    for value in values.get("bars", ()):
        read_bar(value)
    return values


def _configuration(values: object, variables: Mapping[str, Any]) -> Json:
    """Constants, and ``{"type": "env", "key": …, "default": …}``."""
    if not isinstance(values, dict):
        raise BadExperiment("configuration must be an object")
    found: Json = {}
    for name, value in values.items():
        if isinstance(value, dict) and value.get("type") == "env":
            chosen = os.environ.get(str(value.get("key")), value.get("default"))
            if chosen is None:
                raise BadExperiment(f"configuration.{name}: {value.get('key')} is not set")
            found[name] = chosen
        else:
            found[name] = value
    return found | dict(variables)


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadExperiment(f"{where} must be seconds, got {value!r}")
    return float(value)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Json:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _merged(old or {}, value) if both else value
    return merged


def _yaml(text: str) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("drills", "reading experiments in YAML") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
