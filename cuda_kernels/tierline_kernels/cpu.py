"""The CPU back end: compiled loops over row ranges, shared between threads when that pays."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import jit
from tierline_kernels.arguments import BagTask, DotTask, Int64Array, TopkTask
from tierline_kernels.layout import Float32Array, RowwiseInt8, Table

# Below this many bytes a thread hand-over (about 30 µs) costs more than it saves.
SHARE_BYTES = 1 << 19
# Float items are scored in blocks this tall: scores of a block stay in cache.
BLOCK_ROWS = 8192

_NO_FLOATS = np.empty(0, np.float32)
_NO_BITS = np.empty(0, np.uint32)
_NO_IDS = np.empty(0, np.int64)
_NO_MASK = np.empty(0, np.bool_)


def threads() -> int:
    """How many threads share large work: the processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(size: int, _process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="tierline-kernels")


def _shares(rows: int, work: int) -> list[tuple[int, int]]:
    count = max(1, min(threads(), rows, work // SHARE_BYTES))
    edges = [rows * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _run(part: Callable[[int, int, int], None], shares: list[tuple[int, int]]) -> None:
    """Run ``part(share, low, high)`` for each share; the caller's thread takes the last one."""
    pool = _pool(threads(), os.getpid()) if len(shares) > 1 else None
    jobs = []
    if pool is not None:
        jobs = [pool.submit(part, i, *share) for i, share in enumerate(shares[:-1])]
    part(len(shares) - 1, *shares[-1])
    for job in jobs:
        job.result()


def _or_empty(array: NDArray[Any] | None, empty: NDArray[Any]) -> NDArray[Any]:
    return empty if array is None else array


def lookup(table: Table, ids: Int64Array, out: Float32Array) -> None:
    """See ``embedding_lookup``."""
    if isinstance(table, RowwiseInt8):
        biases = _or_empty(table.biases, _NO_FLOATS)

        def part(_: int, low: int, high: int) -> None:
            jit.lookup_int8(table.codes, table.scales, biases, ids, out, low, high)

    elif table.dtype == np.float16:
        _take_half(table, ids, out)
        return
    else:

        def part(_: int, low: int, high: int) -> None:
            jit.lookup_float(table, ids, out, low, high)

    _run(part, _shares(len(ids), out.nbytes))


def _take_half(table: NDArray[Any], ids: Int64Array, out: Float32Array) -> None:
    if len(table) == 0:
        out[:] = 0.0
        return
    out[:] = table[np.maximum(ids, 0)]
    out[ids < 0] = 0.0


def bag(task: BagTask, out: Float32Array) -> None:
    """See ``embedding_bag``."""
    table, ids = task.table, task.ids
    weights = _or_empty(task.weights, _NO_FLOATS)
    padding = -2 if task.padding is None else task.padding
    if isinstance(table, RowwiseInt8):
        quantised = table
        biases = _or_empty(quantised.biases, _NO_FLOATS)

        def part(_: int, low: int, high: int) -> None:
            jit.bag_int8(
                quantised.codes, quantised.scales, biases,
                ids, task.offsets, weights, task.mean, padding, out, low, high,
            )  # fmt: skip

    else:
        if table.dtype == np.float16:
            used, places = np.unique(ids, return_inverse=True)
            single = table[np.maximum(used, 0)].astype(np.float32) if used.size else table[:0]
            table = single.astype(np.float32, copy=False)
            renumbered = np.where(ids < 0, -1, places.astype(np.int64))
            ids = np.where(ids == padding, -2, renumbered)
            padding = -2
        floats = table

        def part(_: int, low: int, high: int) -> None:
            jit.bag_float(floats, ids, task.offsets, weights, task.mean, padding, out, low, high)

    _run(part, _shares(len(out), len(ids) * out.shape[1] * 4))


def topk(task: TopkTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``topk``."""
    if task.k == 0:
        return
    sign = np.float32(1.0 if task.largest else -1.0)
    for b, row in enumerate(task.x):
        mask = _NO_MASK if task.mask is None else task.mask[b % len(task.mask)]
        _topk_row(row, mask, sign, int(task.lengths[b]), task, values[b], indices[b])


def _topk_row(
    row: Float32Array,
    mask: NDArray[np.bool_],
    sign: np.float32,
    length: int,
    task: TopkTask,
    values: Float32Array,
    indices: Int64Array,
) -> None:
    shares = _shares(length, length * 4) if length else [(0, 0)]
    best = np.empty((len(shares), task.k), np.float32)
    where = np.empty((len(shares), task.k), np.int64)

    def part(share: int, low: int, high: int) -> None:
        jit.topk_range(row, mask, sign, best[share], where[share], low, high)

    _run(part, shares)
    _, places = merge(best, where)
    places = _with_nan(row[:length], mask[:length], places, task)
    values[:] = -sign * np.float32(np.inf)
    indices[:] = -1
    indices[: len(places)] = places
    values[: len(places)] = row[places]


def _with_nan(
    row: Float32Array, mask: NDArray[np.bool_], places: Int64Array, task: TopkTask
) -> Int64Array:
    if len(places) == task.k and not task.nan_first:
        return places
    lost = np.flatnonzero(np.isnan(row) & mask) if mask.size else np.flatnonzero(np.isnan(row))
    both = [lost, places] if task.nan_first else [places, lost]
    return np.concatenate(both)[: task.k]


def merge(best: Float32Array, where: Int64Array) -> tuple[Float32Array, Int64Array]:
    """The k best of several best-first lists, unused entries dropped."""
    k = best.shape[1]
    if len(best) > 1:
        values, places = best.ravel(), where.ravel()
        order = np.lexsort((places, -values))[:k]
        best, where = values[order][None], places[order][None]
    count = int((where[0] < jit.NOWHERE).sum())
    return best[0, :count], where[0, :count]


def dot_topk(task: DotTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``dot_topk``; blocks of items meet all queries in one matrix product."""
    if task.k == 0:
        return
    values[:] = -np.inf
    indices[:] = jit.NOWHERE
    items = task.items
    assert isinstance(items, np.ndarray)
    bits, boost = _or_empty(task.filter_bits, _NO_BITS), _or_empty(task.boost, _NO_FLOATS)
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, len(items), BLOCK_ROWS):
            block = items[first : first + BLOCK_ROWS].astype(np.float32, copy=False)
            scores = task.queries @ block.T
            for b in range(len(values)):
                jit.push_scores(
                    scores[b], first, bits, _excluded(task, b), boost, values[b], indices[b]
                )
    for b in range(len(values)):
        jit.unload(values[b], indices[b])
    indices[indices == jit.NOWHERE] = -1


def dot_topk_int8(
    task: DotTask, query_codes: RowwiseInt8, values: Float32Array, indices: Int64Array
) -> None:
    """See ``dot_topk``; items are scanned once a query, scores stay in registers."""
    if task.k == 0:
        return
    for b in range(len(values)):
        best, where = _scan_int8(task, query_codes, b)
        values[b] = -np.inf
        indices[b] = -1
        values[b, : len(best)] = best
        indices[b, : len(best)] = where


def _scan_int8(task: DotTask, query_codes: RowwiseInt8, b: int) -> tuple[Float32Array, Int64Array]:
    items = task.items
    assert isinstance(items, RowwiseInt8)
    shares = _shares(len(items.codes), items.codes.nbytes) if len(items.codes) else [(0, 0)]
    best = np.empty((len(shares), task.k), np.float32)
    where = np.empty((len(shares), task.k), np.int64)
    query = query_codes.codes[b]
    code_sum = np.float32(query.sum(dtype=np.int64))
    biases = _or_empty(items.biases, _NO_FLOATS)
    bits, boost = _or_empty(task.filter_bits, _NO_BITS), _or_empty(task.boost, _NO_FLOATS)
    excluded = _excluded(task, b)

    def part(share: int, low: int, high: int) -> None:
        jit.dot_range_int8(
            items.codes, items.scales, biases, query, query_codes.scales[b], code_sum, bits,
            excluded, boost, best[share], where[share], low, high,
        )  # fmt: skip

    _run(part, shares)
    return merge(best, where)


def _excluded(task: DotTask, b: int) -> Int64Array:
    return task.excluded[task.excluded_offsets[b] : task.excluded_offsets[b + 1]]
