"""Recipes as TOML files: a named base with some of its values replaced, strictly read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tierline import ConfigurationError
from tierline_cloud.compression import Rung
from tierline_cloud.recipes import RECIPES, Recipe

Part = TypeVar("Part")
BASE, COMPRESS, RUNG = "base", "compress", "rung"


def find_recipe(name: str) -> Recipe:
    """The recipe of this name, or the one in the TOML file of this path. Raises
    ConfigurationError."""
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise ConfigurationError(
            f"no recipe {name!r}: give one of {', '.join(sorted(RECIPES))} or a .toml file"
        )
    return read_recipe(path)


def read_recipe(path: Path) -> Recipe:
    """Read ``path``: `base = "full"`, then values of a Recipe by name, tables for its parts, and
    `[[compress.rung]]` tables for the ladder. Raises ConfigurationError naming file and key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"recipe {path} cannot be read: {error}") from error
    base = document.pop(BASE, "full")
    if base not in RECIPES:
        raise ConfigurationError(
            f"recipe {path}: base {base!r} is none of {', '.join(sorted(RECIPES))}"
        )
    rungs = _rungs(document.pop(COMPRESS, {}), str(path))
    recipe = _overlay(RECIPES[base], {"name": path.stem, **document}, f"recipe {path}")
    return recipe if rungs is None else replace(recipe, ladder=rungs)


def _rungs(table: object, where: str) -> tuple[Rung, ...] | None:
    if not isinstance(table, dict) or set(table) - {RUNG}:
        raise ConfigurationError(f"recipe {where}: [compress] holds [[compress.rung]] tables only")
    if RUNG not in table:
        return None
    found = []
    known = {each.name for each in fields(Rung)}
    for number, values in enumerate(table[RUNG], 1):
        at = f"recipe {where}, rung {number}"
        if not isinstance(values, dict) or set(values) - known:
            raise ConfigurationError(f"{at}: its keys are among {', '.join(sorted(known))}")
        try:
            found.append(Rung(**values))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{at}: {error}") from error
    names = [rung.name for rung in found]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"recipe {where}: two rungs have the same name")
    return tuple(found)


def _overlay(part: Part, values: Mapping[str, Any], where: str) -> Part:
    """``part`` with ``values`` in place of its own, tables inside its dataclasses."""
    assert is_dataclass(part)
    known = {each.name for each in fields(part)} - {"ladder"}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigurationError(
                f"{where}: unknown key {name!r}; known are {', '.join(sorted(known))}"
            )
        before = getattr(part, name)
        if is_dataclass(before) and isinstance(value, dict):
            changed[name] = _overlay(before, value, f"{where}, [{name}]")
        else:
            changed[name] = _checked(before, value, f"{where}: {name}")
    try:
        # Any: is_dataclass tells mypy less than it tells us.
        result: Any = replace(part, **changed)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    found: Part = result
    return found


def _checked(before: object, value: object, where: str) -> object:
    """``value`` where it is of the kind of ``before``; a whole number does for a decimal."""
    if before is None or isinstance(before, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if before is None else float(value)
        wanted = "a number"
    else:
        if type(value) is type(before):
            return value
        wanted = {str: "text", int: "a whole number", bool: "true or false"}.get(
            type(before), f"a table ({type(before).__name__})"
        )
    raise ConfigurationError(f"{where} must be {wanted}, got {value!r}")
