"""Cases for Numba's simulator only (test_cuda.py runs this file in a process of its own)."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tierline_kernels as kernels
from tierline_kernels import IndexOutOfRange, quantize_rows
from tierline_kernels.cuda import catalogue, plan, retrieve, select
from tierline_kernels.cuda.device import (
    Bag,
    Bags,
    DeviceTable,
    Retrieval,
    Rows,
    Rules,
    Selection,
)
from tierline_kernels.cuda.driver import Memory, Simulator, borrow, default_driver
from tierline_kernels.cuda.rows import PIECE, Kind

CASES = int(os.environ.get("TIERLINE_KERNEL_CASES", "4"))
few = settings(max_examples=12, deadline=None, database=None, derandomize=True)
CANARY = 16


def in_nightly(*values: Any) -> list[Any]:
    """Parameters that take too long for every change: a simulated warp is 32 Python threads."""
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


def driver() -> Simulator:
    found = default_driver()
    assert isinstance(found, Simulator)
    return found


def table_of(kind: str, rows: np.ndarray[Any, Any]) -> Any:
    return quantize_rows(rows) if kind == "int8" else rows.astype(kind)


def guarded(count: int) -> tuple[Memory, np.ndarray[Any, Any]]:
    """A poisoned float32 output inside a poisoned buffer."""
    whole = driver().empty(count + 2 * CANARY, np.float32)
    inner = whole.pointer[CANARY : CANARY + count]
    return Memory(inner, whole, inner.ctypes.data), whole.pointer


def assert_canaries(whole: np.ndarray[Any, Any]) -> None:
    edges = np.concatenate([whole[:CANARY], whole[-CANARY:]])
    assert (edges.view(np.uint8) == 0xFF).all()


@settings(few, max_examples=CASES)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 9),
    n=st.integers(0, 40),
    k=st.integers(1, 5),
    d=st.sampled_from([64, 128]),
)
def test_tensor_cores_give_the_references_ids_and_scores(
    seed: int, count: int, n: int, k: int, d: int
) -> None:
    rng = np.random.default_rng(seed)
    items = quantize_rows(rng.standard_normal((n, d)), symmetric=bool(rng.random() < 0.5))
    queries = rng.standard_normal((count, d)).astype(np.float32)
    bits = rng.integers(0, 2**32, (n + 31) // 32, dtype=np.uint32)
    exclude = None
    if n:
        exclude = (rng.integers(0, n, 3 * count), np.arange(0, 3 * count + 1, 3))
    first = plan.retrieval(
        driver().machine, "int8", n, d, count, aligned=True, exact=False
    )  # fmt: skip
    assert first.kernel is catalogue.tensor_scan(d)
    rules: Any = {"filter_bits": bits if rng.random() < 0.5 else None, "exclude": exclude}
    got = kernels.dot_topk(queries, items, k, backend="cuda", **rules)
    want = kernels.dot_topk(queries, items, k, backend="reference", **rules)
    np.testing.assert_array_equal(got.indices, want.indices)
    np.testing.assert_array_equal(got.values, want.values)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("lanes", [8, *in_nightly(1, 2, 4, 16, 32)])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_every_number_of_pieces_are_scored_alike(
    kind: Kind, lanes: int, count: int
) -> None:
    d = lanes * PIECE[kind]
    assert retrieve.lanes_per_row(kind, d) == lanes
    rng = np.random.default_rng(lanes)
    items = table_of(kind, rng.integers(-4, 5, (18, d)).astype(np.float32))
    queries = rng.integers(-4, 5, (count, d)).astype(np.float32)
    got = kernels.dot_topk(queries, items, 2, backend="cuda")
    want = kernels.dot_topk(queries, items, 2, backend="reference")
    np.testing.assert_array_equal(got.indices, want.indices)
    np.testing.assert_array_equal(got.values, want.values)


@pytest.mark.nightly  # the next but one shows such a row for every change
@pytest.mark.parametrize(
    ("style", "smallest"), [("rising", False), ("equal", False), ("random", True)]
)
def test_lists_too_short_for_k_are_noticed_and_the_row_is_done_exactly(
    style: str, smallest: bool
) -> None:
    n, k = 260, 40
    rng = np.random.default_rng(1)
    x = {
        "rising": np.arange(n),
        "equal": np.zeros(n),
        "random": rng.permutation(n),
    }[style].astype(np.float32)[None]
    got = kernels.topk(x, k, largest=not smallest, backend="cuda")
    want = kernels.topk(x, k, largest=not smallest, backend="reference")
    np.testing.assert_array_equal(got.indices, want.indices)
    np.testing.assert_array_equal(got.values, want.values)


@pytest.mark.nightly
def test_a_certificate_is_given_only_where_the_lists_were_long_enough() -> None:
    n, k = 256, 40  # two tiles of 128, one a warp
    one_tile = np.arange(n, dtype=np.float32)[::-1]  # the first tile holds the whole answer
    dealt = np.where(np.arange(n) % 128 < 20, 1000.0, 0.0) - np.arange(n)  # 20 in each
    for x, proven in ((one_tile, 0), (dealt, 1)):
        lengths = driver().upload(np.array([n]), np.int64)
        rows = Rows(driver().upload(x[None], np.float32), 1, n, lengths)
        selection = Selection(driver(), rows, k)
        selection.run()
        assert selection.certified is not None
        assert selection.certified.pointer[0] == proven
        values, _ = selection.answer()
        np.testing.assert_array_equal(values[0], -np.sort(-x)[:k])


def test_only_the_rows_without_a_certificate_are_done_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, k = 256, 40
    x = np.where(np.arange(n) % 128 < 20, 1000.0, 0.0) - np.arange(n)  # 20 in each list: proven
    x = np.stack([x, np.arange(n, 0.0, -1.0), x]).astype(np.float32)
    done: list[tuple[str, Any]] = []
    launch = Simulator.launch
    monkeypatch.setattr(
        Simulator, "launch",
        lambda self, kernel, grid, *rest: (
            done.append((kernel.name, grid)), launch(self, kernel, grid, *rest)
        )[1],
    )  # fmt: skip
    got = kernels.topk(x, k, mask=np.ones((3, n), np.bool_), backend="cuda")
    want = kernels.topk(x, k, backend="reference")
    np.testing.assert_array_equal(got.indices, want.indices)
    np.testing.assert_array_equal(got.values, want.values)
    assert [grid[1] for name, grid in done if name == "keys_all"] == [1]


@pytest.mark.nightly
def test_a_query_without_a_certificate_is_answered_anew_with_its_own_exclusions() -> None:
    n, k = 600, 40
    items = np.zeros((n, 16), np.float32)
    items[:, 0], items[:, 1] = np.arange(n), -np.arange(n) % 7
    table = quantize_rows(items)
    queries = np.eye(2, 16, dtype=np.float32)
    exclude = (np.array([599, 3, 5]), np.array([0, 1, 3]))
    for each in (table, items):
        got = kernels.dot_topk(queries, each, k, exclude=exclude, backend="cuda")
        want = kernels.dot_topk(queries, each, k, exclude=exclude, backend="reference")
        np.testing.assert_array_equal(got.indices, want.indices)
        np.testing.assert_array_equal(got.values, want.values)


def test_a_selection_run_twice_on_the_same_memory_is_the_same_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    table = DeviceTable(driver(), rng.standard_normal((40, 32)).astype(np.float32))
    queries = driver().upload(rng.standard_normal((1, 32)), np.float32)
    retrieval = Retrieval(table, queries, 1, 3)
    retrieval.run()
    first = [array.tobytes() for array in retrieval.answer()]
    retrieval.run()
    assert [array.tobytes() for array in retrieval.answer()] == first


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("d", [16, 18])
def test_bags_write_every_place_of_their_output_and_none_outside(kind: str, d: int) -> None:
    rng = np.random.default_rng(5)
    table = table_of(kind, rng.standard_normal((9, d)).astype(np.float32))
    ids, offsets = np.array([1, 2, -1, 8, 0]), np.array([0, 2, 2, 5])
    out, whole = guarded(3 * d)
    bags = Bags(driver().upload(ids, np.int64), 5, driver().upload(offsets, np.int64), 3)
    Bag(DeviceTable(driver(), table), bags, out).run()
    want = kernels.embedding_bag(table, ids, offsets, include_last_offset=True, backend="reference")
    np.testing.assert_allclose(out.pointer.reshape(3, d), want, atol=1e-5)
    assert_canaries(whole)


@pytest.mark.parametrize("kind", ["int8", *in_nightly("float32", "float16")])
def test_a_misaligned_table_takes_the_kernel_without_wide_loads(kind: str) -> None:
    rng = np.random.default_rng(6)
    rows = rng.integers(-4, 5, (21, 64)).astype(np.float32)
    whole = DeviceTable(driver(), table_of(kind, rows))
    moved = DeviceTable(driver(), table_of(kind, rows))
    size = moved.entries.pointer.itemsize
    raw = np.zeros(rows.size * size + 32, np.uint8)
    start = -raw.ctypes.data % 16 + 4
    shifted = raw[start : start + rows.size * size].view(moved.entries.pointer.dtype)
    shifted[:] = moved.entries.pointer
    moved.entries = Memory(shifted, raw, shifted.ctypes.data)
    assert not moved.entries.aligned
    queries = driver().upload(rng.integers(-4, 5, (2, 64)), np.float32)
    ids = Bags(driver().upload(np.arange(21), np.int64), 21, None, 21)
    answers = []
    for table in (whole, moved):
        retrieval = Retrieval(table, queries, 2, 6)
        retrieval.run()
        out = driver().empty(21 * 64, np.float32)
        Bag(table, ids, out).run()
        answers.append((*retrieval.answer(), out.pointer.copy()))
    for aligned, misaligned in zip(*answers, strict=True):
        np.testing.assert_array_equal(aligned, misaligned)
    with pytest.raises(ValueError, match="misaligned"):  # what the wide kernel would have met
        retrieve.load16(shifted, 0)


def check_of(bounds: Any, out: Memory) -> Bag:
    table = DeviceTable(driver(), np.ones((4, 4), np.float32))
    ids = driver().upload(np.array([0, 9, 3]), np.int64)
    return Bag(table, Bags(ids, 3, None, 3), out, bounds=bounds)


def test_fatal_bounds_raise_before_anything_is_written() -> None:
    out, whole = guarded(12)
    with pytest.raises(IndexOutOfRange, match="place 1"):
        check_of("fatal", out).run()
    assert (whole.view(np.uint8) == 0xFF).all()


def test_warn_bounds_log_the_place_and_the_row_outside_adds_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, _ = guarded(12)
    bag = check_of("warn", out)
    bag.run()
    with caplog.at_level(logging.WARNING, "tierline.kernels"):
        bag.report()
        bag.report()
    assert [record.message.count("place 1") for record in caplog.records] == [1]
    assert out.pointer.reshape(3, 4).tolist() == [[1] * 4, [0] * 4, [1] * 4]


def test_ignored_bounds_say_nothing_and_never_read_outside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, _ = guarded(12)
    bag = check_of("ignore", out)
    bag.run()
    bag.report()
    assert caplog.records == []
    assert out.pointer.reshape(3, 4).tolist() == [[1] * 4, [0] * 4, [1] * 4]


@settings(few, max_examples=2 * CASES)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 70))
def test_a_query_is_quantised_on_the_device_as_on_the_host(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    # Halves of a step, which rounding in single precision would get wrong now and then.
    queries = rng.integers(-255, 256, (3, width)).astype(np.float32)
    queries *= np.float32(rng.choice([1.0, 0.1, 1e-3, 1e-40]))
    queries[0] = rng.standard_normal(width)
    want = quantize_rows(queries)
    codes = driver().empty(4 * width, np.int8)
    scales, sums = driver().empty(4, np.float32), driver().empty(4, np.float32)
    driver().launch(
        catalogue.QUANTIZE, (4, 1), 32, driver().upload(queries, np.float32), codes, scales, sums,
        width, 3,
    )  # fmt: skip
    np.testing.assert_array_equal(codes.pointer.reshape(4, width)[:3], want.codes)
    np.testing.assert_array_equal(scales.pointer[:3], want.scales)
    np.testing.assert_array_equal(sums.pointer[:3], want.codes.sum(axis=1, dtype=np.int64))
    assert not codes.pointer.reshape(4, width)[3].any()


def test_a_query_that_is_not_finite_finds_nothing() -> None:
    table = DeviceTable(driver(), quantize_rows(np.eye(5, 16)))
    for bad in (np.nan, np.inf):
        query = np.ones(16, np.float32)
        query[3] = bad
        retrieval = Retrieval(table, driver().upload(query, np.float32), 1, 2, Rules())
        retrieval.run()
        assert retrieval.answer()[1].tolist() == [[-1, -1]]


def test_borrowed_memory_keeps_its_owner_alive() -> None:
    owner = object()
    assert borrow(4096 + 8, owner).owner is owner
    assert not borrow(4096 + 8, owner).aligned
    assert select.LANES == 32
