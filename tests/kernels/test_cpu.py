"""What is the CPU loops' own: groups and their tails, threads, processors of all kinds."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import tierline_kernels as kernels
from tierline_kernels import RowwiseInt8, cpu
from tierline_kernels.layout import Table


def int8_items(n: int, d: int) -> RowwiseInt8:
    rng = np.random.default_rng(n * d)
    return RowwiseInt8(rng.integers(-128, 128, (n, d), np.int8), np.ones(n, np.float32))


def assert_exact(n: int, d: int) -> None:
    """The scores are whole numbers below 2**24: float32 holds them exactly."""
    items = int8_items(n, d)
    query = np.random.default_rng(d).integers(-5, 6, (1, d)).astype(np.float32)
    query[0, 0] = 127.0  # a scale of one
    scores = items.codes.astype(np.int64) @ query[0].astype(np.int64)
    best = kernels.dot_topk(query, items, 30, backend="cpu")
    order = np.lexsort((np.arange(n), -scores))[:30]
    assert best.indices[0, : len(order)].tolist() == order.tolist()
    np.testing.assert_array_equal(best.values[0, : len(order)], scores[order])


@pytest.mark.parametrize("d", [1, 63, 64, 65, 200])
def test_int8_products_are_exact_for_every_width_and_number_of_rows(d: int) -> None:
    for n in (1, 15, 16, 17, 255, 257, 600):
        assert_exact(n, d)


def test_extreme_codes_at_the_widest_row_stay_within_32_bits() -> None:
    width = 131_072
    for sign in (1, -1):
        items = RowwiseInt8(np.full((33, width), -128, np.int8), np.ones(33, np.float32))
        best = kernels.dot_topk(np.full((1, width), sign, np.float32), items, 2, backend="cpu")
        scale = np.float32(1.0) / np.float32(127.0)
        exact = np.float32(-128 * 127 * sign * width) * scale
        assert best.values.tolist() == [[exact, exact]]
        assert best.indices.tolist() == [[0, 1]]


@pytest.mark.parametrize("hands", [1, 2, 5])
@pytest.mark.parametrize("largest", [True, False])
def test_ties_go_to_the_lowest_index_however_the_work_is_shared(
    hands: int, largest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "threads", lambda: hands)
    monkeypatch.setattr(cpu, "SHARE_BYTES", 1024)
    rng = np.random.default_rng(4)
    x = rng.integers(-50, 50, (1, 9001)).astype(np.float32)
    got = kernels.topk(x, 300, largest=largest, backend="cpu")
    want = np.lexsort((np.arange(9001), -x[0] if largest else x[0]))[:300]
    np.testing.assert_array_equal(got.indices[0], want)
    items = int8_items(5003, 8)
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    shared = kernels.dot_topk(queries, items, 40, backend="cpu")
    alone = kernels.dot_topk(queries, items, 40, backend="reference")
    np.testing.assert_array_equal(shared.indices, alone.indices)
    np.testing.assert_array_equal(shared.values, alone.values)


def test_many_rows_are_selected_from_as_one_by_one() -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-9, 9, (50, 200)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    mask, lengths = rng.random((50, 200)) < 0.7, rng.integers(0, 201, 50)
    together = kernels.topk(x, 180, mask=mask, row_lengths=lengths, nan="first", backend="cpu")
    for b in range(50):
        alone = kernels.topk(
            x[b : b + 1], 180, mask=mask[b], row_lengths=lengths[b : b + 1], nan="first",
            backend="reference",
        )  # fmt: skip
        np.testing.assert_array_equal(together.indices[b], alone.indices[0])
        np.testing.assert_array_equal(together.values[b], alone.values[0])


@pytest.mark.parametrize("d", [16, 64, 80, 128, 192, 200, 320])
@pytest.mark.parametrize("kind", ["int8", "affine", "float32", "float16"])
def test_bags_of_every_width_add_up_whole_blocks_and_their_tails(d: int, kind: str) -> None:
    rng = np.random.default_rng(d)
    items: Table = int8_items(50, d)
    if kind == "affine":
        items = RowwiseInt8(items.codes, items.scales, rng.integers(-9, 9, 50).astype(np.float32))
    elif kind != "int8":
        items = items.codes.astype(kind)
    ids = rng.integers(-1, 50, 150)
    offsets = np.array([0, 0, 1, 34, 110])
    for weights in (None, rng.integers(-3, 4, 150).astype(np.float32)):
        got, want = (
            kernels.embedding_bag(
                items, ids, offsets, weights=weights, padding_index=3, backend=backend
            )
            for backend in ("cpu", "reference")
        )
        np.testing.assert_array_equal(got, want)  # whole numbers: exact in any order


def test_halves_of_every_kind_are_added_up_as_what_they_stand_for() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 128)
    ids = np.arange(len(every))
    bags = kernels.embedding_bag(every, ids, ids, backend="cpu")
    np.testing.assert_array_equal(bags, every.astype(np.float32))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 7], [100, 0, 0, 1, 1, 1], [1] * 9])
@pytest.mark.parametrize("hands", [1, 3])
def test_bags_are_shared_out_by_their_rows_and_none_is_left_out(
    lengths: list[int], hands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "threads", lambda: hands)
    monkeypatch.setattr(cpu, "SHARE_BYTES", 1)
    shares = cpu._bag_shares(np.cumsum([0, *lengths]), 64)
    assert [bag for low, high in shares for bag in range(low, high)] == list(range(len(lengths)))
    cost = [sum(lengths[low:high]) + high - low for low, high in shares]
    assert max(cost, default=0) <= max(lengths, default=0) + 1 + sum(cost) / hands


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "features"),
    [("haswell", "+avx,+avx2,+fma,+sse4.2,+popcnt,+bmi,+bmi2,+f16c"), ("generic", "")],
)
def test_processors_without_vnni_or_avx2_compute_the_same(name: str, features: str) -> None:
    program = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_cpu\n"
    program += "for d in (31, 64, 65, 200):\n    test_cpu.assert_exact(333, d)\n"
    program += (
        "    for kind in ('affine', 'float32', 'float16'):\n"
        "        test_cpu.test_bags_of_every_width_add_up_whole_blocks_and_their_tails(d, kind)\n"
        "test_cpu.test_halves_of_every_kind_are_added_up_as_what_they_stand_for()"
    )
    chosen = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | chosen, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
