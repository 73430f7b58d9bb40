"""Reads a catalogue of texts: a JSON object a line, item ids 1..n."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tierline import BadRequest, ConfigurationError
from tierline_serving.text_requests import pack_text


def read_catalogue(path: Path) -> list[str]:
    """The text of item i at place i − 1. A line is ``{"id": 17, "text": "…"}``; without ids the
    items are numbered by line. Raises ConfigurationError naming the line."""
    try:
        with path.open(encoding="utf-8") as lines:
            return parse_catalogue(lines, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def parse_catalogue(lines: Iterable[str], where: str) -> list[str]:
    """What ``read_catalogue`` does, from lines at hand; empty ones count for nothing."""
    texts: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item, text = _read_line(line, f"{where}, line {number}", len(texts) + 1)
        if item in texts:
            raise ConfigurationError(f"{where}, line {number}: item {item} was there before")
        texts[item] = text
    if not texts:
        raise ConfigurationError(f"{where} holds no items")
    if max(texts) != len(texts):
        lost = next(item for item in range(1, len(texts) + 2) if item not in texts)
        raise ConfigurationError(
            f"{where}: item ids go from 1 to {len(texts)} for {len(texts)} items, and {lost} is "
            "missing"
        )
    return [texts[item] for item in range(1, len(texts) + 1)]


def _read_line(line: str, where: str, following: int) -> tuple[int, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        raise ConfigurationError(f'{where}: expected an object like {{"id": 17, "text": "…"}}')
    item = value.get("id", following)
    if type(item) is not int or item < 1:
        raise ConfigurationError(f"{where}: an id is a whole number from 1 on, got {item!r}")
    try:
        pack_text(value["text"])
    except BadRequest as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return item, value["text"]
