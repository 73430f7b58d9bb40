"""Every format yields the same sequences, and a bad line is named by its number."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.data import read_interactions
from tierline_cloud.data.ingest import DataError, parse_csv, parse_inter, parse_s3rec
from tierline_cloud.data.sequences import Sequences

HISTORIES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=8)


def _lists(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in sequences]


@given(HISTORIES)
def test_s3rec_lines_keep_integer_ids_and_their_order(histories: list[list[int]]) -> None:
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(histories, 1)]
    sequences = parse_s3rec(lines)
    assert _lists(sequences) == histories
    assert sequences.n_items == max(map(max, histories))


@given(HISTORIES)
def test_inter_and_csv_rows_in_any_order_come_out_by_time(histories: list[list[int]]) -> None:
    rows = [
        (user, item, moment)
        for user, items in enumerate(histories)
        for moment, item in enumerate(items)
    ]
    # Users keep their first-seen order, so shuffle inside a user only: newest first.
    rows.sort(key=lambda row: (row[0], -row[2]))
    inter = ["user_id:token\titem_id:token\ttimestamp:float"]
    inter += [f"u{user}\t{item}\t{moment}.5" for user, item, moment in rows]
    table = ["timestamp,user,rating,item"]
    table += [f"{moment},u{user},5,{item}" for user, item, moment in rows]
    assert _lists(parse_inter(inter)) == histories
    assert _lists(parse_csv(table)) == histories


def test_ids_that_are_no_plain_numbers_are_renumbered_from_one() -> None:
    sequences = parse_s3rec(["ann shoe hat", "bob hat 007"])
    assert sequences.n_items == 3
    assert _lists(sequences) == [[3, 2], [2, 1]]


def test_huge_sparse_integer_ids_are_renumbered_in_their_order() -> None:
    sequences = parse_s3rec(["1 900000000 5", "2 5 70000"])
    assert _lists(sequences) == [[3, 1], [1, 2]]


def test_events_of_one_instant_stay_in_file_order() -> None:
    sequences = parse_csv(["user_id,item_id,time", "a,2,9", "a,1,9", "a,3,1"])
    assert _lists(sequences) == [[3, 2, 1]]


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        (["1 2 3", "", "4"], 3, "at least one item"),
        (["1 2 3", "2 3", "1 4"], 3, "already had line 1"),
    ],
)
def test_a_bad_s3rec_line_is_named(lines: list[str], line: int, what: str) -> None:
    with pytest.raises(DataError, match=f"line {line}: .*{what}"):
        parse_s3rec(lines)


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        (["user,item", "1,2"], 1, "lacks a column 'timestamp'"),
        (["user,item,timestamp", "1,2,3", "1,2"], 3, "expected 3 fields, found 2"),
        (["user,item,timestamp", "1,2,soon"], 2, "'soon' is no number"),
        (["user,item,timestamp", "1,2,nan"], 2, "NaN"),
        (["user,item,timestamp", ",2,3"], 2, "must not be empty"),
        (["user,item,timestamp", '1,"2"x,3'], 2, "not CSV"),
        ([], 1, "lacks a column"),
    ],
)
def test_a_bad_csv_line_is_named(lines: list[str], line: int, what: str) -> None:
    with pytest.raises(DataError, match=f"line {line}: .*{what}"):
        parse_csv(lines)


def test_an_inter_file_without_typed_header_is_refused() -> None:
    with pytest.raises(DataError, match=r"line 1: .*tab-separated header"):
        parse_inter(["user_id\titem_id\ttimestamp", "1\t2\t3"])


@given(st.text(max_size=200), st.sampled_from([parse_s3rec, parse_inter, parse_csv]))
def test_any_text_is_read_or_refused_with_a_data_error(text: str, parse: object) -> None:
    assert callable(parse)
    try:
        sequences = parse(text.splitlines())
    except DataError:
        return
    assert sequences.items.min() >= 1


def test_the_suffix_chooses_the_format(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("user,item,timestamp\n1,2,3\n", encoding="utf-8")
    assert _lists(read_interactions(path)) == [[2]]


def test_a_missing_or_binary_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions(tmp_path / "binary.txt")


def test_an_unknown_format_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'excel'"):
        read_interactions(tmp_path / "x", "excel")
