"""Impressions with dense and sparse features and whether they were clicked, in time order.

Two formats: RecBole's (a tab header of `name:type`; `label:float`, other floats are dense, tokens
are sparse) and Criteo's `.tsv` (label, 13 counts, 26 hashes, no header). Empty means missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.ingest import DataError

LABEL = "label"
CRITEO_DENSE, CRITEO_SPARSE = 13, 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The names of the features, in the order of the arrays' columns."""

    dense: tuple[str, ...]
    sparse: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicks:
    """``labels`` float64 [n] (0 or 1), ``dense`` float32 [n, D] (NaN: missing), ``sparse`` int64
    [n, S]: ids 1..buckets of each field's own, 0 missing. Rows are in time order."""

    fields: Fields
    buckets: int
    labels: NDArray[np.float64]
    dense: NDArray[np.float32]
    sparse: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.labels.size)

    def part(self, start: int, stop: int) -> Clicks:
        """Rows ``start`` to ``stop``."""
        span = slice(start, stop)
        return Clicks(
            fields=self.fields,
            buckets=self.buckets,
            labels=self.labels[span],
            dense=self.dense[span],
            sparse=self.sparse[span],
        )


def bucket(field: str, token: str, buckets: int) -> int:
    """The id of a token: 1 + crc32("field=token") mod buckets, so that a caller needs no table;
    0 for an empty one."""
    return 1 + crc32(f"{field}={token}".encode()) % buckets if token else 0


def read_clicks(path: Path, *, buckets: int) -> Clicks:
    """Read a file in one of the two formats (`.tsv` is Criteo's). Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read as UTF-8 text: {error}") from error
    if path.suffix.lower() == ".tsv":
        return parse_criteo(lines, buckets=buckets, name=path.name)
    return parse_typed(lines, buckets=buckets, name=path.name)


def parse_criteo(lines: Iterable[str], *, buckets: int, name: str = "data") -> Clicks:
    """Criteo's lines, whose features are called I1…I13 and C1…C26."""
    fields = Fields(
        dense=tuple(f"I{number}" for number in range(1, CRITEO_DENSE + 1)),
        sparse=tuple(f"C{number}" for number in range(1, CRITEO_SPARSE + 1)),
    )
    rows = list(enumerate((line.split("\t") for line in lines), 1))
    columns = list(range(1 + CRITEO_DENSE + CRITEO_SPARSE))
    return _collect(rows, fields, columns, buckets, name)


def parse_typed(lines: Iterable[str], *, buckets: int, name: str = "data") -> Clicks:
    """Lines under a header of `name:type` columns, one of them `label:float`."""
    rows = [line.split("\t") for line in lines]
    if not rows or not all(field.endswith((":float", ":token")) for field in rows[0]):
        raise DataError(f"{name}, line 1: expected a tab-separated header of name:type columns")
    head = [tuple(field.rsplit(":", 1)) for field in rows[0]]
    names = [column for column, _ in head]
    if names.count(LABEL) != 1 or (LABEL, "float") not in head:
        raise DataError(f"{name}, line 1: expected exactly one column {LABEL}:float")
    dense = tuple(column for column, kind in head if kind == "float" and column != LABEL)
    sparse = tuple(column for column, kind in head if kind == "token")
    columns = [names.index(column) for column in (LABEL, *dense, *sparse)]
    fields = Fields(dense=dense, sparse=sparse)
    return _collect(list(enumerate(rows[1:], 2)), fields, columns, buckets, name)


def _collect(
    rows: list[tuple[int, list[str]]], fields: Fields, columns: list[int], buckets: int, name: str
) -> Clicks:
    """``columns`` are where label, dense and sparse features stand in each row."""
    wide, width = len(fields.dense), max(columns) + 1
    if not rows or width < 2:
        raise DataError(f"{name}: no impressions with features in it")
    labels = np.empty(len(rows))
    dense = np.full((len(rows), wide), np.nan, np.float32)
    sparse = np.zeros((len(rows), len(fields.sparse)), np.int64)
    for place, (number, row) in enumerate(rows):
        if len(row) < width:
            raise DataError(f"{name}, line {number}: {len(row)} columns, expected {width}")
        values = [row[column] for column in columns]
        labels[place] = _number(values[0], name, number)
        if labels[place] not in (0.0, 1.0):
            raise DataError(f"{name}, line {number}: the label must be 0 or 1, got {values[0]!r}")
        for at, value in enumerate(values[1 : 1 + wide]):
            if value:
                dense[place, at] = _number(value, name, number)
        tokens = zip(fields.sparse, values[1 + wide :], strict=True)
        sparse[place] = [bucket(field, token, buckets) for field, token in tokens]
    return Clicks(fields=fields, buckets=buckets, labels=labels, dense=dense, sparse=sparse)


def _number(value: str, name: str, line: int) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise DataError(f"{name}, line {line}: {value!r} is not a number") from error
    if not math.isfinite(number):
        raise DataError(f"{name}, line {line}: {value!r} is not a finite number")
    return number
