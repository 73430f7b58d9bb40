"""Tables in fewer bytes stay close to their rows, and say truly how many bytes they take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline_cloud.compression.tables import (
    LEVELS,
    TableForm,
    compact_table,
    pack_int4,
    quantize_rows_int4,
    unpack_int4,
)
from tierline_kernels import RowwiseInt8, dequantize_rows

ITEMS, WIDTH = 40, 16


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    # Power-law row norms, as popular and rare items have them.
    made = rng.normal(size=(ITEMS, WIDTH)) / np.sqrt(1 + np.arange(ITEMS))[:, None]
    made[0] = 0.0
    return made.astype(np.float32)


@pytest.mark.parametrize(
    ("form", "bytes_per_row", "error"),
    [("float32", 64, 0.0), ("float16", 32, 1e-3), ("int8", 20, 5e-3), ("int4", 12, 8e-2)],
)
def test_every_form_has_its_size_and_its_error(
    rows: NDArray[np.float32], form: TableForm, bytes_per_row: int, error: float
) -> None:
    table = compact_table(rows, form)
    assert table.bytes == ITEMS * bytes_per_row
    largest = np.abs(rows).max(axis=1, keepdims=True)
    assert np.all(np.abs(table.rows - rows) <= error * largest + 1e-7)
    assert table.rows.dtype == np.float32
    assert not table.rows[0].any()


def test_a_searched_range_errs_less_than_the_whole_range(rows: NDArray[np.float32]) -> None:
    outlier = rows.copy()
    outlier[:, 0] *= 4.0
    searched = compact_table(outlier, "int4").rows
    low, high = outlier.min(axis=1, keepdims=True), outlier.max(axis=1, keepdims=True)
    step = np.where(high > low, (high - low) / LEVELS, 1.0)
    naive = np.rint((outlier - low) / step) * step + low
    assert np.square(searched - outlier).sum() < 0.9 * np.square(naive - outlier).sum()


def test_int4_codes_have_four_bits_and_scales_that_float16_holds(
    rows: NDArray[np.float32],
) -> None:
    table = quantize_rows_int4(rows)
    assert table.codes.min() >= -8
    assert table.codes.max() <= 7
    assert np.array_equal(table.scales, table.scales.astype(np.float16).astype(np.float32))


def test_codes_chosen_for_states_err_less_in_products_with_such_states(
    rows: NDArray[np.float32],
) -> None:
    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(2, WIDTH))  # states that differ in two directions only
    known, met = ((rng.normal(size=(400, 2)) @ mixing).astype(np.float32) for _ in range(2))
    near, chosen = quantize_rows_int4(rows), compact_table(rows, "int4", known)

    def missed(table: NDArray[np.float32]) -> float:
        return float(np.square(met @ (table - rows).T).mean())

    assert missed(chosen.rows) < 0.5 * missed(dequantize_rows(near))
    assert chosen.bytes == compact_table(rows, "int4").bytes
    assert isinstance(chosen.served, RowwiseInt8)
    assert -8 <= chosen.served.codes.min() <= chosen.served.codes.max() <= 7
    assert np.array_equal(chosen.served.scales, near.scales)
    assert not chosen.rows[0].any()


def test_constant_rows_are_their_constant() -> None:
    flat = np.full((2, 4), 0.5, np.float32)
    assert np.array_equal(compact_table(flat, "int4").rows, flat)


@given(st.lists(st.integers(-8, 7), min_size=2, max_size=20).filter(lambda c: len(c) % 2 == 0))
def test_packed_codes_come_back(codes: list[int]) -> None:
    row = np.array([codes], np.int8)
    packed = pack_int4(row)
    assert packed.nbytes == row.nbytes // 2
    assert np.array_equal(unpack_int4(packed), row)


def test_odd_rows_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="5 columns are odd"):
        compact_table(np.zeros((3, 5), np.float32), "int4")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'int2' is none of"):
        compact_table(np.zeros((3, 4), np.float32), "int2")  # type: ignore[arg-type]
