"""Reads untrusted JSON field by field: every surprise is a BundleRefused that names the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Final, NoReturn, TypeVar

from tierline import BundleRefused

MAX_JSON_BYTES: Final = 16 * 2**20  # metrics are free-form; a manifest has no business being larger
MAX_DEPTH: Final = 32  # of free-form JSON: metrics, an architecture's config
MAX_TEXT: Final = 4096
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")  # safe as part of a folder's name
SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")

T = TypeVar("T")


def parse_json(data: bytes, what: str) -> object:
    """The JSON value in UTF-8 bytes; duplicate keys, NaN and infinities are refused."""
    if len(data) > MAX_JSON_BYTES:
        raise BundleRefused(f"{what}: {len(data)} bytes; at most {MAX_JSON_BYTES} are read")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BundleRefused(f"{what}: not valid JSON: {error}") from error


def canonical_json(value: object) -> bytes:
    """Sorted keys, UTF-8, two spaces, a newline at the end: one value, one sequence of bytes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=2, allow_nan=False)
    return text.encode("utf-8") + b"\n"


class Fields:
    """One JSON object being read. ``finish`` refuses what nobody asked for."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            refuse(path, f"expected an object, got {show(value)}")
        self._values: Mapping[str, object] = value
        self._path = path
        self._read: set[str] = set()

    def at(self, key: str) -> str:
        """The path of a field, for messages: ``manifest.runtime.opset``."""
        return f"{self._path}.{key}"

    def need(self, key: str, read: Callable[[object, str], T]) -> T:
        """The field, which must be there and not null."""
        self._read.add(key)
        if self._values.get(key) is None:
            refuse(self.at(key), "missing; it is required")
        return read(self._values[key], self.at(key))

    def maybe(self, key: str, read: Callable[[object, str], T]) -> T | None:
        """The field, or None where it is absent or null."""
        self._read.add(key)
        value = self._values.get(key)
        return None if value is None else read(value, self.at(key))

    def finish(self) -> None:
        """Refuse fields that were not read: a misspelt name must not pass for an absent one."""
        for key in self._values:
            if key not in self._read:
                known = ", ".join(sorted(self._read))
                refuse(self.at(show(key)), f"unknown field; known here: {known}")


def refuse(path: str, why: str) -> NoReturn:
    """Raise BundleRefused for a field: ``manifest.runtime.opset: missing``."""
    raise BundleRefused(f"{path}: {why}")


def text(value: object, path: str) -> str:
    """A non-empty string of printable UTF-8."""
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        refuse(path, f"expected a text of 1 to {MAX_TEXT} characters, got {show(value)}")
    if not value.isprintable():
        refuse(path, f"expected printable characters only, got {show(value)}")
    return value


def name(value: object, path: str) -> str:
    """A short name that is safe inside a folder's name and a URL."""
    if not isinstance(value, str) or not NAME.match(value):
        refuse(path, f"expected 1 to 64 of A-Z a-z 0-9 . _ - (first no sign), got {show(value)}")
    return value


def sha256(value: object, path: str) -> str:
    """64 lower-case hex digits."""
    if not isinstance(value, str) or not SHA256.match(value):
        refuse(path, f"expected 64 lower-case hex digits, got {show(value)}")
    return value


def file_path(value: object, path: str) -> str:
    """A path inside the bundle: relative, normalised, with no way out."""
    written = text(value, path)
    parts = written.split("/")
    if "\\" in written or ":" in written or any(part in ("", ".", "..") for part in parts):
        refuse(path, f"expected a relative path inside the bundle, got {show(value)}")
    if any(len(part.encode()) > 255 for part in parts) or len(parts) > 8:
        refuse(path, f"expected names of at most 255 bytes, 8 deep, got {show(value)}")
    assert str(PurePosixPath(written)) == written
    return written


def factory(value: object, path: str) -> str:
    """A function of a package, ``package.module:function``."""
    written = text(value, path)
    module, colon, function = written.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), function]):
        refuse(path, f"expected package.module:function, got {show(value)}")
    return written


def instant(value: object, path: str) -> str:
    """An instant in UTC, written like 2026-11-21T04:00:00Z."""
    written = text(value, path)
    try:
        read = datetime.fromisoformat(written)
    except ValueError:
        refuse(path, f"expected an instant like 2026-11-21T04:00:00Z, got {show(value)}")
    if read.utcoffset() != timedelta(0):
        refuse(path, f"expected an instant in UTC, ending in Z, got {show(value)}")
    return written


def one_of(allowed: Iterable[str]) -> Callable[[object, str], str]:
    """A reader for one of the given words."""
    words = tuple(allowed)

    def read(value: object, path: str) -> str:
        if not isinstance(value, str) or value not in words:
            refuse(path, f"expected one of {', '.join(words)}; got {show(value)}")
        return value

    return read


def integer(low: int, high: int) -> Callable[[object, str], int]:
    """A reader for an integer in [low, high]; true and 1.0 are not integers."""

    def read(value: object, path: str) -> int:
        if type(value) is not int or not low <= value <= high:
            refuse(path, f"expected an integer from {low} to {high}, got {show(value)}")
        return value

    return read


def number(low: float, high: float = math.inf) -> Callable[[object, str], float]:
    """A reader for a finite number in [low, high]."""

    def read(value: object, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(path, f"expected a number, got {show(value)}")
        if not low <= value <= high or abs(value) > 1e300:
            refuse(path, f"expected a finite number from {low} to {high}, got {show(value)}")
        return float(value)

    return read


def array_of(read: Callable[[object, str], T]) -> Callable[[object, str], tuple[T, ...]]:
    """A reader for an array whose elements are read one by one."""

    def read_array(value: object, path: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            refuse(path, f"expected an array, got {show(value)}")
        return tuple(read(element, f"{path}[{i}]") for i, element in enumerate(value))

    return read_array


def map_of(
    key: Callable[[object, str], str], read: Callable[[object, str], T]
) -> Callable[[object, str], dict[str, T]]:
    """A reader for an object with free keys: each key and each value is read."""

    def read_map(value: object, path: str) -> dict[str, T]:
        if not isinstance(value, dict):
            refuse(path, f"expected an object, got {show(value)}")
        return {
            key(written, f"{path}.{show(written)}"): read(element, f"{path}.{written}")
            for written, element in value.items()
        }

    return read_map


def free_object(value: object, path: str) -> dict[str, object]:
    """An object of any finite JSON, as metrics are."""
    if not isinstance(value, dict):
        refuse(path, f"expected an object, got {show(value)}")
    _check_free(value, path, MAX_DEPTH)
    return value


def show(value: object) -> str:
    """A value in a message: short, printable ASCII."""
    written = ascii(value) if isinstance(value, str) else ascii(value)[:200]
    return written if len(written) <= 60 else f"{written[:57]}..."


def _check_free(value: object, path: str, depth: int) -> None:
    if depth == 0:
        refuse(path, f"nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool():
            return
        case str():
            _check_encodable(value, path)
        case int() | float():
            number(-math.inf)(value, path)
        case Mapping():
            for key, element in value.items():
                _check_encodable(key, path)
                _check_free(element, f"{path}.{key}", depth - 1)
        case Sequence():
            for i, element in enumerate(value):
                _check_free(element, f"{path}[{i}]", depth - 1)
        case _:
            refuse(path, f"{type(value).__name__} is not JSON")


def _check_encodable(value: object, path: str) -> None:
    if not isinstance(value, str):
        refuse(path, f"expected a text as key, got {show(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        refuse(path, f"{show(value)} is no valid Unicode text")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {show(twice)} appears twice")
    return found


def _no_constant(written: str) -> NoReturn:
    raise ValueError(f"{written} is not JSON")
