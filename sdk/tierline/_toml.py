"""Reads a client's TOML file: validated as a whole, one clear error naming the key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tierline._config import (
    Balancing,
    BreakerPolicy,
    ClientConfig,
    EjectionPolicy,
    Endpoint,
    EscalationPolicy,
    HealthPolicy,
    HedgePolicy,
    LimiterPolicy,
    RetryPolicy,
    Sovereignty,
    Tier,
    TimeoutPolicy,
)
from tierline._exceptions import ConfigurationError
from tierline._sovereignty import FieldRule

Table = Mapping[str, Any]  # parsed TOML: values are checked where they are read

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float),
    "str": (str,),
    "bool": (bool,),
    # as the compiler writes an annotation
    "Literal['ignore', 'fail']": (str,),
    "Literal['fixed', 'quality_first', 'budget_first']": (str,),
    "Path | None": (str,),
}
_POLICIES = {
    "retry": RetryPolicy,
    "hedge": HedgePolicy,
    "timeout": TimeoutPolicy,
    "breaker": BreakerPolicy,
    "ejection": EjectionPolicy,
    "limiter": LimiterPolicy,
    "escalation": EscalationPolicy,
    "health": HealthPolicy,
}
_TABLES = ("client", "tiers", *_POLICIES, "sovereignty", "priors")
_CLIENT_KEYS = ("deadline", "transport", "zone", "api_key_env", "allow_unsigned")
_TIER_KEYS = ("name", "kind", "region", "trust", "balancing", "endpoints")


def read_config(path: str | os.PathLike[str]) -> ClientConfig:
    """The configuration in a TOML file. Paths in it are relative to the file's folder.
    Raises ConfigurationError with the offending key."""
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError as missing:
        raise ConfigurationError(f"there is no file {file}") from missing
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
        raise ConfigurationError(f"{file} is not TOML: {bad}") from bad
    return config_from(document, file.parent)


def config_from(document: Table, folder: Path) -> ClientConfig:
    """The configuration in a parsed document."""
    _known(document, _TABLES, "")
    client = _table(document, "client")
    _known(client, _CLIENT_KEYS, "client")
    settings: dict[str, Any] = {}
    kinds = {"deadline": "float", "transport": "str", "zone": "str", "allow_unsigned": "bool"}
    for key, kind in kinds.items():
        if key in client:
            settings[key] = _typed(client[key], kind, f"client.{key}")
    if "api_key_env" in client:
        key = "client.api_key_env"
        settings["api_key"] = _secret(_typed(client["api_key_env"], "str", key), key)
    for name, policy in _POLICIES.items():
        if name in document:
            settings[name] = _policy(policy, document, name, folder)
    return ClientConfig(
        tiers=_tiers(document.get("tiers", []), folder),
        sovereignty=_sovereignty(_table(document, "sovereignty")),
        priors={
            model: folder / _typed(place, "str", f"priors.{model}")
            for model, place in _table(document, "priors").items()
        },
        **settings,
    )


def _tiers(entries: object, folder: Path) -> tuple[Tier, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError("must be written as [[tiers]] tables", key="tiers")
    return tuple(_tier(entry, f"tiers[{i}]", folder) for i, entry in enumerate(entries))


def _tier(entry: Table, where: str, folder: Path) -> Tier:
    _known(entry, _TIER_KEYS, where)
    for key in ("name", "kind", "endpoints"):
        if key not in entry:
            raise ConfigurationError("is missing", key=f"{where}.{key}")
    texts = {
        key: _typed(entry[key], "str", f"{where}.{key}")
        for key in ("name", "kind", "region", "trust")
        if key in entry
    }
    choice = entry.get("balancing", Balancing.LEAST_LOADED.value)
    if choice not in [balancing.value for balancing in Balancing]:
        names = ", ".join(balancing.value for balancing in Balancing)
        raise ConfigurationError(
            f"must be one of {names}; got {choice!r}", key=f"{where}.balancing"
        )
    listed = entry["endpoints"]
    if not isinstance(listed, list):
        raise ConfigurationError("must be a list", key=f"{where}.endpoints")
    endpoints = tuple(
        _endpoint(item, f"{where}.endpoints[{i}]", folder) for i, item in enumerate(listed)
    )
    return Tier(endpoints=endpoints, balancing=Balancing(choice), **texts)


def _endpoint(item: object, where: str, folder: Path) -> Endpoint:
    if not isinstance(item, str | dict):
        raise ConfigurationError("must be an address or {url = …, weight = …}", key=where)
    table: Table = {"url": item} if isinstance(item, str) else item
    _known(table, ("url", "weight", "zone"), where)
    if "url" not in table:
        raise ConfigurationError("is missing", key=f"{where}.url")
    url = _typed(table["url"], "str", f"{where}.url")
    if url.startswith("embedded:"):
        url = f"embedded:{folder / url.removeprefix('embedded:')}"
    weight = float(_typed(table.get("weight", 1.0), "float", f"{where}.weight"))
    zone = _typed(table["zone"], "str", f"{where}.zone") if "zone" in table else None
    return Endpoint(url=url, weight=weight, zone=zone)


def _sovereignty(table: Table) -> Sovereignty:
    _known(table, ("regions", "trust", "default", "secret_env", "fields"), "sovereignty")
    settings = _scoped(table, ("trust", "default"), "sovereignty")
    if "secret_env" in table:
        key = "sovereignty.secret_env"
        settings["secret"] = _secret(_typed(table["secret_env"], "str", key), key).encode()
    rules = table.get("fields", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        message = "must be written as [[sovereignty.fields]] tables"
        raise ConfigurationError(message, key="sovereignty.fields")
    places = enumerate(rules)
    settings["fields"] = tuple(_field_rule(r, f"sovereignty.fields[{i}]") for i, r in places)
    return Sovereignty(**settings)


def _field_rule(table: Table, where: str) -> FieldRule:
    texts, amounts = ("name", "action", "trust"), {"last": "int", "step": "float", "buckets": "int"}
    _known(table, (*texts, "regions", *amounts), where)
    for key in ("name", "action"):
        if key not in table:
            raise ConfigurationError("is missing", key=f"{where}.{key}")
    settings = _scoped(table, texts, where)
    for key, kind in amounts.items():
        if key in table:
            settings[key] = _typed(table[key], kind, f"{where}.{key}")
    return FieldRule(**settings)


def _scoped(table: Table, texts: tuple[str, ...], where: str) -> dict[str, Any]:
    """The texts of a table, and the regions it speaks of."""
    settings = {key: _typed(table[key], "str", f"{where}.{key}") for key in texts if key in table}
    if "regions" in table:
        regions = table["regions"]
        if not isinstance(regions, list):
            raise ConfigurationError("must be a list of regions", key=f"{where}.regions")
        settings["regions"] = tuple(_typed(r, "str", f"{where}.regions") for r in regions)
    return settings


def _policy(cls: type[Any], document: Table, name: str, folder: Path) -> Any:  # Any: it is a cls
    table = _table(document, name)
    settable = {field.name: str(field.type) for field in fields(cls) if str(field.type) in _KINDS}
    _known(table, tuple(settable), name)
    given = {key: _typed(v, settable[key], f"{name}.{key}") for key, v in table.items()}
    return cls(**{k: folder / v if settable[k].startswith("Path") else v for k, v in given.items()})


def _known(table: Table, keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            place = f"{where}.{key}" if where else key
            raise ConfigurationError(f"is not a setting here; known: {', '.join(keys)}", key=place)


def _table(document: Table, name: str) -> Table:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"must be a table, written [{name}]", key=name)
    return table


def _typed(value: Any, kind: str, key: str) -> Any:  # Any: the value is what the kind says
    right = isinstance(value, _KINDS[kind])
    if isinstance(value, bool) and kind != "bool":  # True is an int to Python, not to a reader
        right = False
    if not right:
        wanted = "str" if _KINDS[kind] == (str,) else kind.removesuffix(" | None")
        raise ConfigurationError(f"must be a {wanted}, got {value!r}", key=key)
    return value


def _secret(name: str, key: str) -> str:
    if name not in os.environ:
        message = f"names the environment variable {name}, which is not set"
        raise ConfigurationError(message, key=key)
    return os.environ[name]
