"""One suite for every back end: each operation against plain Python, on shapes made to hurt.

``TIERLINE_KERNEL_BACKENDS`` and ``TIERLINE_KERNEL_CASES`` choose other back ends and fewer cases;
the CUDA simulator runs this same file in a process of its own (test_cuda.py).
"""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tierline_kernels as kernels
from tierline_kernels import RowwiseInt8

BACKENDS: list[Any] = os.environ.get("TIERLINE_KERNEL_BACKENDS", "reference,cpu").split(",")
CASES = int(os.environ.get("TIERLINE_KERNEL_CASES", "500"))  # each on every back end
TINY = "cuda" in BACKENDS
ROWS, WIDTH = (24, 36) if TINY else (90, 70)

many = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=os.environ.get("HYPOTHESIS_PROFILE") != "search",
    # No shrinking: a kernel that fails to compile would be compiled anew for every smaller case.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
seeds = st.integers(0, 2**32 - 1)
Kind = Literal["float32", "float16", "symmetric", "affine"]
kinds = st.sampled_from(["float32", "float16", "symmetric", "affine"])
widths = st.one_of(st.sampled_from([1, 8, 16, 32, 64]), st.integers(1, WIDTH))
CANARY = 64


def misaligned(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers at an address that is no multiple of their size."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    moved = raw[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


class Guarded:
    """An output inside a poisoned buffer; ``check`` finds any write outside it."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.raw = np.full(size + 2 * CANARY, 0xFF, np.uint8)  # NaN as floats, -1 as integers
        self.view = self.raw[CANARY : CANARY + size].view(dtype).reshape(shape)

    def check(self) -> None:
        assert (self.raw[:CANARY] == 0xFF).all()
        assert (self.raw[self.raw.size - CANARY :] == 0xFF).all()


def make_table(rng: np.random.Generator, kind: Kind, n: int, d: int, whole: bool) -> Any:
    if kind in ("symmetric", "affine"):
        codes = rng.integers(-128, 128, (n, d)).astype(np.int8)
        if rng.random() < 0.3:
            codes[:] = codes[:1]  # every row ties
        scales = rng.choice([1.0, 0.5, 0.013, 1e-30], n).astype(np.float32)
        biases = rng.standard_normal(n).astype(np.float32) if kind == "affine" else None
        return RowwiseInt8(codes, scales, biases)
    rows = rng.integers(-4, 5, (n, d)) if whole else rng.standard_normal((n, d))
    floats = rows.astype(kind)
    if rng.random() < 0.2 and floats.size:
        spots = rng.integers(0, floats.size, 2)
        floats.reshape(-1)[spots] = rng.choice([np.nan, np.inf, -np.inf], 2)
    return misaligned(floats) if rng.random() < 0.3 else floats


def plain_row(table: Any, row: int) -> list[float]:
    if isinstance(table, RowwiseInt8):
        bias = 0.0 if table.biases is None else float(table.biases[row])
        return [float(c) * float(table.scales[row]) + bias for c in table.codes[row]]
    return [float(value) for value in table[row]]


def assert_close(got: NDArray[Any], want: float, size: float) -> None:
    """Equal up to float32 rounding of terms that add up to ``size`` in magnitude."""
    if math.isnan(want) or math.isinf(want):
        np.testing.assert_array_equal(got, np.float32(want))
    else:
        assert abs(float(got) - want) <= 1e-6 * size + 1e-37, (float(got), want)


@on_every_backend
@many
@given(seed=seeds, kind=kinds, n=st.integers(1, ROWS), d=widths, count=st.integers(0, 40))
def test_lookup_returns_the_rows_asked_for_and_zeros_for_pruned_ones(
    backend: Any, seed: int, kind: Kind, n: int, d: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    table = make_table(rng, kind, n, d, whole=False)
    ids = rng.integers(-1, n, count).astype(rng.choice([np.int32, np.int64]))
    out = Guarded((count, d), np.float32)
    kernels.embedding_lookup(table, misaligned(ids), out=out.view, backend=backend)
    out.check()
    for got, row in zip(out.view, ids, strict=True):
        want = np.zeros(d) if row < 0 else np.array(plain_row(table, row))
        np.testing.assert_allclose(got, want, rtol=3e-7, atol=3e-6 if kind == "affine" else 1e-37)


@on_every_backend
@many
@given(
    seed=seeds,
    kind=kinds,
    n=st.integers(1, ROWS),
    d=widths,
    lengths=st.lists(st.integers(0, 7), max_size=6),
    mode=st.sampled_from(["sum", "mean"]),
    weighted=st.booleans(),
    padded=st.booleans(),
    closed=st.booleans(),
)
def test_bags_add_up_their_rows(
    backend: Any,
    seed: int,
    kind: Kind,
    n: int,
    d: int,
    lengths: list[int],
    mode: Any,
    weighted: bool,
    padded: bool,
    closed: bool,
) -> None:
    rng = np.random.default_rng(seed)
    table = make_table(rng, kind, n, d, whole=False)
    ids = rng.integers(-1, n, sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(rng.choice([np.int32, np.int64]))
    weights = rng.standard_normal(len(ids)).astype(np.float32) if weighted else None
    padding = int(rng.integers(-1, n)) if padded else None
    out = Guarded((len(lengths), d), np.float32)
    kernels.embedding_bag(
        table,
        ids,
        offsets if closed else offsets[:-1],
        weights=weights,
        mode=mode,
        padding_index=padding,
        include_last_offset=closed,
        out=out.view,
        backend=backend,
    )
    out.check()
    for b, got in enumerate(out.view):
        places = [p for p in range(offsets[b], offsets[b + 1]) if ids[p] != padding]
        scale = 1.0 / len(places) if mode == "mean" and places else 1.0
        rows = [
            [x * (1.0 if weights is None else float(weights[p])) for x in plain_row(table, ids[p])]
            for p in places
            if ids[p] >= 0
        ]
        slack = 4.0 * len(places) if kind == "affine" else 0.0
        for column in range(d):
            terms = [row[column] for row in rows]
            size = sum(abs(term) for term in terms) * 4 + slack * 8
            assert_close(got[column], sum(terms) * scale, size)


def make_scores(rng: np.random.Generator, rows: int, n: int) -> NDArray[np.float32]:
    palette = np.array(
        [0.0, -0.0, 1.0, -1.0, 2.5, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan],
        np.float32,
    )
    style = rng.integers(0, 5)
    if style == 0:
        return rng.choice(palette, (rows, n))
    if style == 1:
        return np.full((rows, n), rng.choice(palette), np.float32)
    x = rng.standard_normal((rows, n)).astype(np.float32)
    if style == 2:
        return np.sort(x, axis=1)
    if style == 3:
        return -np.sort(-x, axis=1)
    x[rng.random(x.shape) < 0.3] = np.nan
    return x


@on_every_backend
@many
@given(
    seed=seeds,
    rows=st.integers(0, 4),
    n=st.one_of(st.sampled_from([0, 1, 16, 17, 32, 33]), st.integers(0, 2 * ROWS)),
    k=st.integers(0, 50),
    largest=st.booleans(),
    masked=st.sampled_from(["no", "row", "all"]),
    cut=st.booleans(),
    nan=st.sampled_from(["last", "first"]),
    half=st.booleans(),
)
def test_topk_is_a_sort_by_value_then_index(
    backend: Any,
    seed: int,
    rows: int,
    n: int,
    k: int,
    largest: bool,
    masked: str,
    cut: bool,
    nan: Any,
    half: bool,
) -> None:
    rng = np.random.default_rng(seed)
    x: Any = make_scores(rng, rows, n)
    if half:
        with np.errstate(over="ignore"):
            x = x.astype(np.float16)
    mask = None if masked == "no" else rng.random((n,) if masked == "row" else (rows, n)) < 0.6
    lengths = rng.integers(0, n + 1, rows) if cut else None
    values, indices = Guarded((rows, k), np.float32), Guarded((rows, k), np.int64)
    kernels.topk(
        misaligned(x),
        k,
        largest=largest,
        mask=mask,
        row_lengths=lengths,
        nan=nan,
        out=(values.view, indices.view),
        backend=backend,
    )
    values.check()
    indices.check()
    for b in range(rows):
        keep = range(n if lengths is None else lengths[b])
        if mask is not None:
            keep = [i for i in keep if np.broadcast_to(mask, (rows, n))[b, i]]  # type: ignore[assignment]
        lost = [i for i in keep if math.isnan(x[b, i])]
        real = [i for i in keep if not math.isnan(x[b, i])]
        real.sort(key=lambda i: ((-1.0 if largest else 1.0) * float(x[b, i]), i))
        order = (lost + real if nan == "first" else real + lost)[:k]
        fill = -math.inf if largest else math.inf
        want = [float(x[b, i]) for i in order] + [fill] * (k - len(order))
        assert indices.view[b].tolist() == order + [-1] * (k - len(order))
        np.testing.assert_array_equal(values.view[b], np.array(want, np.float32))


def plain_scores(query: NDArray[Any], items: Any, boost: NDArray[Any] | None) -> list[float]:
    """Scores as every back end must have them; float tables hold small whole numbers."""
    scores = []
    with np.errstate(all="ignore"):
        if isinstance(items, RowwiseInt8):
            quantised = kernels.quantize_rows(query[None])
            codes = [int(c) for c in quantised.codes[0]]
        for i in range(items.shape[0]):
            if isinstance(items, RowwiseInt8):
                dot = sum(int(c) * q for c, q in zip(items.codes[i], codes, strict=True))
                score = np.float32(dot) * items.scales[i]
                if items.biases is not None:
                    score = score + np.float32(sum(codes)) * items.biases[i]
                score = score * quantised.scales[0]
            else:
                pairs = zip(query, items[i], strict=True)
                score = np.float32(sum(float(q) * float(x) for q, x in pairs))
            scores.append(float(score if boost is None else score + boost[i]))
    return scores


@on_every_backend
@many
@given(
    seed=seeds,
    kind=kinds,
    n=st.integers(0, ROWS),
    d=widths,
    count=st.integers(0, 3),
    k=st.integers(0, 40),
    filtered=st.booleans(),
    excluding=st.booleans(),
    boosted=st.booleans(),
)
def test_dot_topk_is_the_sorted_list_of_allowed_items(
    backend: Any,
    seed: int,
    kind: Kind,
    n: int,
    d: int,
    count: int,
    k: int,
    filtered: bool,
    excluding: bool,
    boosted: bool,
) -> None:
    rng = np.random.default_rng(seed)
    items = make_table(rng, kind, n, d, whole=True)
    queries = rng.integers(-4, 5, (count, d)).astype(rng.choice([np.float32, np.float16]))
    if isinstance(items, RowwiseInt8):
        queries = rng.standard_normal((count, d)).astype(np.float32)
    bits = rng.integers(0, 2**32, (n + 31) // 32, dtype=np.uint32) if filtered else None
    lengths = rng.integers(0, 6, count)
    exclude = None
    if excluding:
        ids = rng.integers(-1, max(n, 1), lengths.sum()) if n else np.full(lengths.sum(), -1)
        exclude = (ids, np.concatenate([[0], np.cumsum(lengths)]))
    boost = None
    if boosted:
        boost = rng.integers(-9, 9, n).astype(np.float32)
        boost[rng.random(n) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    best = kernels.dot_topk(
        misaligned(queries),
        items,
        k,
        filter_bits=bits,
        exclude=exclude,
        boost=boost,
        backend=backend,
    )
    for b in range(count):
        scores = plain_scores(queries[b].astype(np.float32), items, boost)
        banned = set() if exclude is None else set(exclude[0][exclude[1][b] : exclude[1][b + 1]])
        keep = [
            i
            for i in range(n)
            if (bits is None or int(bits[i // 32]) >> (i % 32) & 1)
            and i not in banned
            and not math.isnan(scores[i])
        ]
        order = sorted(keep, key=lambda i: (-scores[i], i))[:k]
        want = [scores[i] for i in order] + [-math.inf] * (k - len(order))
        assert best.indices[b].tolist() == order + [-1] * (k - len(order))
        np.testing.assert_array_equal(best.values[b], np.array(want, np.float32))


@on_every_backend
@settings(many, max_examples=max(2, CASES // 5))
@given(seed=seeds, n=st.integers(1, ROWS), d=widths, k=st.integers(0, 9))
def test_rescoring_orders_int8_candidates_by_the_exact_product(
    backend: Any, seed: int, n: int, d: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.integers(-50, 51, (n, d)).astype(np.float32)
    query = rng.integers(-4, 5, (1, d)).astype(np.float32)
    quantised = kernels.quantize_rows(exact)
    best = kernels.dot_topk(query, quantised, k, rescore=exact, backend=backend)
    rough = kernels.dot_topk(query, quantised, 4 * k, backend="reference").indices[0]
    scores = exact @ query[0]
    order = sorted((i for i in rough if i >= 0), key=lambda i: (-scores[i], i))[:k]
    assert best.indices[0].tolist() == order + [-1] * (k - len(order))
    np.testing.assert_array_equal(best.values[0][: len(order)], scores[order])
