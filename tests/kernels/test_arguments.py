"""Bad arguments are refused with one typed error before any work."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tierline_kernels import (
    BadOffsets,
    IndexOutOfRange,
    KernelError,
    RowwiseInt8,
    dot_topk,
    embedding_bag,
    embedding_lookup,
    quantize_rows,
    topk,
)

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("bad", [4, -2, 2**40])
def test_an_id_outside_the_table_is_refused(bad: int) -> None:
    with pytest.raises(IndexOutOfRange, match=str(bad)):
        embedding_lookup(TABLE, np.array([0, bad]))


def test_ids_must_be_integers() -> None:
    with pytest.raises(KernelError, match="int32 or int64"):
        embedding_lookup(TABLE, np.array([0.0]))


@pytest.mark.parametrize(
    ("offsets", "closed"),
    [([0, 3, 2], False), ([1, 2], False), ([0, 9], False), ([0, 2], True), ([], True), ([], False)],
)
def test_offsets_that_are_no_bags_are_refused(offsets: list[int], closed: bool) -> None:
    with pytest.raises(BadOffsets):
        embedding_bag(
            TABLE,
            np.array([0, 1, 2]),
            np.array(offsets, np.int64),
            include_last_offset=closed,
        )


def test_an_output_that_overlaps_the_table_is_refused() -> None:
    table = np.zeros((4, 3), np.float32)
    with pytest.raises(KernelError, match="overlaps"):
        embedding_lookup(table, np.array([0, 1]), out=table[:2])


def test_k_below_zero_is_refused() -> None:
    with pytest.raises(KernelError, match="k is -1"):
        topk(TABLE, -1)
    with pytest.raises(KernelError, match="k is -1"):
        dot_topk(TABLE, TABLE, -1)


def test_double_precision_tables_are_refused() -> None:
    with pytest.raises(KernelError, match="float64"):
        embedding_lookup(TABLE.astype(np.float64), np.array([0]))


def test_nan_is_refused_when_the_caller_says_so() -> None:
    x = np.array([[1.0, np.nan]], np.float32)
    with pytest.raises(KernelError, match="NaN"):
        topk(x, 1, nan="raise")
    assert topk(x, 1, nan="raise", mask=np.array([True, False])).indices.tolist() == [[0]]


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(KernelError, match="backend"):
        topk(TABLE, 1, backend="abacus")  # type: ignore[arg-type]


def test_queries_of_another_width_are_refused() -> None:
    with pytest.raises(KernelError, match="widths must agree"):
        dot_topk(TABLE, np.zeros((5, 4), np.float32), 1)


def test_a_filter_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(KernelError, match="filter_bits"):
        dot_topk(TABLE, TABLE, 1, filter_bits=np.zeros(2, np.uint32))


def test_rows_with_infinity_cannot_be_quantised() -> None:
    with pytest.raises(KernelError, match="infinity"):
        quantize_rows(np.array([[np.inf]], np.float32))


def test_a_table_with_scales_of_another_length_is_refused() -> None:
    with pytest.raises(KernelError, match="scales"):
        RowwiseInt8(np.zeros((2, 3), np.int8), np.zeros(3, np.float32))


def test_importing_the_package_does_not_import_numba() -> None:
    code = "import sys, tierline_kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
