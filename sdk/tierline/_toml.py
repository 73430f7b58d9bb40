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
    Endpoint,
    EscalationPolicy,
    HedgePolicy,
    RetryPolicy,
    Sovereignty,
    Tier,
)
from tierline._exceptions import ConfigurationError

Table = Mapping[str, Any]  # parsed TOML: values are checked where they are read

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float),
    "str": (str,),
    "bool": (bool,),
}
_TABLES = ("client", "tiers", "retry", "hedge", "breaker", "escalation", "sovereignty", "priors")
_CLIENT_KEYS = ("deadline", "transport", "api_key_env", "allow_unsigned")
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
    for key, kind in (("deadline", "float"), ("transport", "str"), ("allow_unsigned", "bool")):
        if key in client:
            settings[key] = _typed(client[key], kind, f"client.{key}")
    if "api_key_env" in client:
        settings["api_key"] = _secret(_typed(client["api_key_env"], "str", "client.api_key_env"))
    if "hedge" in document:
        settings["hedge"] = _policy(HedgePolicy, document, "hedge")
    return ClientConfig(
        tiers=_tiers(document.get("tiers", []), folder),
        retry=_policy(RetryPolicy, document, "retry"),
        breaker=_policy(BreakerPolicy, document, "breaker"),
        escalation=_policy(EscalationPolicy, document, "escalation"),
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
    _known(table, ("url", "weight"), where)
    if "url" not in table:
        raise ConfigurationError("is missing", key=f"{where}.url")
    url = _typed(table["url"], "str", f"{where}.url")
    if url.startswith("embedded:"):
        url = f"embedded:{folder / url.removeprefix('embedded:')}"
    weight = float(_typed(table.get("weight", 1.0), "float", f"{where}.weight"))
    return Endpoint(url=url, weight=weight)


def _sovereignty(table: Table) -> Sovereignty:
    _known(table, ("regions", "trust"), "sovereignty")
    settings: dict[str, Any] = {}
    if "trust" in table:
        settings["trust"] = _typed(table["trust"], "str", "sovereignty.trust")
    if "regions" in table:
        regions = table["regions"]
        if not isinstance(regions, list):
            raise ConfigurationError("must be a list of regions", key="sovereignty.regions")
        settings["regions"] = tuple(_typed(r, "str", "sovereignty.regions") for r in regions)
    return Sovereignty(**settings)


def _policy(cls: type[Any], document: Table, name: str) -> Any:  # Any: whichever policy cls is
    table = _table(document, name)
    settable = {field.name: str(field.type) for field in fields(cls) if str(field.type) in _KINDS}
    _known(table, tuple(settable), name)
    return cls(**{key: _typed(v, settable[key], f"{name}.{key}") for key, v in table.items()})


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
        wanted = kind.removesuffix(" | None")
        raise ConfigurationError(f"must be a {wanted}, got {value!r}", key=key)
    return value


def _secret(name: str) -> str:
    if name not in os.environ:
        message = f"names the environment variable {name}, which is not set"
        raise ConfigurationError(message, key="client.api_key_env")
    return os.environ[name]
