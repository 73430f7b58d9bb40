"""Read interaction files: S3-Rec lines, RecBole `.inter`, CSV; a bad line is named by number."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tierline import TierlineError
from tierline_cloud.data.sequences import Sequences

DATA_FORMATS = ("s3rec", "inter", "csv")
_USER, _ITEM, _TIME = ("user_id", "user"), ("item_id", "item"), ("timestamp", "time")


class DataError(TierlineError):
    """Interaction data that cannot be read; the message names the file, the line and the cure."""


def read_interactions(path: Path, kind: str | None = None) -> Sequences:
    """Read a file into sequences, oldest first. ``kind`` is one of DATA_FORMATS; None goes by the
    suffix (`.inter`, `.csv`, anything else is S3-Rec). Raises DataError."""
    chosen = kind or {".inter": "inter", ".csv": "csv"}.get(path.suffix.lower(), "s3rec")
    if chosen not in DATA_FORMATS:
        raise DataError(f"unknown data format {kind!r}: use one of {', '.join(DATA_FORMATS)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read as UTF-8 text: {error}") from error
    lines = text.splitlines()
    if chosen == "s3rec":
        return parse_s3rec(lines, name=path.name)
    if chosen == "inter":
        return parse_inter(lines, name=path.name)
    return parse_csv(lines, name=path.name)


def parse_s3rec(lines: Iterable[str], *, name: str = "data") -> Sequences:
    """`user item item …` per line, in time order. Integer ids ≥ 1 are kept, others renumbered."""
    rows: list[list[str]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2:
            raise _bad(name, number, "expected a user and at least one item: 'user item item …'")
        if fields[0] in seen:
            first = seen[fields[0]]
            raise _bad(
                name, number, f"user {fields[0]!r} already had line {first}: one line a user"
            )
        seen[fields[0]] = number
        rows.append(fields[1:])
    return _number(rows, name)


def parse_inter(lines: Iterable[str], *, name: str = "data") -> Sequences:
    """RecBole's atomic file: a tab header of `field:type` with user_id, item_id and timestamp."""
    rows = [line.split("\t") for line in lines]
    if not rows or not all(":" in field for field in rows[0]):
        header = "user_id:token, item_id:token and timestamp:float"
        raise _bad(name, 1, f"expected a tab-separated header with {header}")
    rows[0] = [field.split(":")[0] for field in rows[0]]
    return _events(enumerate(rows, 1), name)


def parse_csv(lines: Iterable[str], *, name: str = "data") -> Sequences:
    """A header naming the columns user, item and timestamp (user_id, item_id and time do too)."""
    reader = csv.reader(lines, strict=True)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _bad(name, reader.line_num, f"not CSV: {error}") from error
            yield reader.line_num, row

    return _events(numbered(), name)


def _events(rows: Iterable[tuple[int, list[str]]], name: str) -> Sequences:
    """Rows under a header → sequences; events of one instant stay in file order."""
    stream = iter(rows)
    _, header = next(stream, (1, []))
    columns = [_column(header, names, name) for names in (_USER, _ITEM, _TIME)]
    events: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for number, row in stream:
        if not any(field.strip() for field in row):
            continue
        if len(row) != len(header):
            raise _bad(name, number, f"expected {len(header)} fields, found {len(row)}")
        user, item, when = (row[column].strip() for column in columns)
        if not user or not item:
            raise _bad(name, number, "user and item must not be empty")
        try:
            instant = float(when)
        except ValueError as error:
            raise _bad(name, number, f"the timestamp {when!r} is no number") from error
        if instant != instant:
            raise _bad(name, number, "the timestamp must not be NaN")
        events[user].append((instant, item))
    ordered = [sorted(user, key=lambda event: event[0]) for user in events.values()]
    return _number(
        [[item for _, item in user] for user in ordered],
        name,
        [[instant for instant, _ in user] for user in ordered],
    )


def _column(header: list[str], names: tuple[str, ...], file: str) -> int:
    fields = [field.strip().lower() for field in header]
    for name in names:
        if name in fields:
            return fields.index(name)
    found = ", ".join(fields) or "nothing"
    raise _bad(file, 1, f"the header lacks a column {names[0]!r} (or {names[1]!r}); it has {found}")


def _number(rows: list[list[str]], name: str, times: list[list[float]] | None = None) -> Sequences:
    """Keep plain dense-enough integer ids as they are; renumber anything else in sorted order."""
    if not rows:
        raise DataError(f"{name}: no interactions in it")
    tokens = {token for row in rows for token in row}
    plain = all(t.isascii() and t.isdigit() and len(t) < 10 and t[0] != "0" for t in tokens)
    # Ids far above their number would make tables of holes: renumber those too.
    if plain and max(map(int, tokens)) <= 2 * len(tokens) + 1000:
        numbers = {token: int(token) for token in tokens}
    else:
        order = sorted(tokens, key=lambda t: (len(t), t) if plain else (0, t))
        numbers = {token: number for number, token in enumerate(order, 1)}
    lists = [[numbers[token] for token in row] for row in rows]
    return Sequences.from_lists(lists, n_items=max(numbers.values()), times=times)


def _bad(name: str, line: int, what: str) -> DataError:
    return DataError(f"{name}, line {line}: {what}")
