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

from tierline_kernels import jit_rows, jit_select
from tierline_kernels.arguments import BagTask, DotTask, Int64Array, TopkTask
from tierline_kernels.layout import Float32Array, RowwiseInt8, Table

# Below this many bytes a thread hand-over (about 30 µs) costs more than it saves.
SHARE_BYTES = 1 << 19
SHARES_A_THREAD = 4
# Float items are scored in blocks this tall: their scores stay in cache.
BLOCK_ROWS = 4096
# From this many queries a matrix product per block beats reading the block once a query.
MATRIX_QUERIES = 16

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
    """Row ranges for ``work`` bytes: a few a thread, so that a thread that is held up by the
    machine's other work does not hold up the answer."""
    count = max(1, min(SHARES_A_THREAD * threads(), rows, work // SHARE_BYTES))
    edges = [rows * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _run(part: Callable[[int, int, int], None], shares: list[tuple[int, int]]) -> None:
    """Run ``part(share, low, high)`` for each share; the caller's thread works along."""
    if len(shares) == 1:
        part(0, *shares[0])
        return
    waiting = iter(enumerate(shares))

    def work() -> None:
        for share, (low, high) in waiting:
            part(share, low, high)

    hands = min(threads(), len(shares)) - 1
    jobs = [_pool(threads(), os.getpid()).submit(work) for _ in range(hands)]
    work()
    for job in jobs:
        job.result()


def _or_empty(array: NDArray[Any] | None, empty: NDArray[Any]) -> NDArray[Any]:
    return empty if array is None else array


def lookup(table: Table, ids: Int64Array, out: Float32Array) -> None:
    """See ``embedding_lookup``."""
    if isinstance(table, RowwiseInt8):
        biases = _or_empty(table.biases, _NO_FLOATS)

        def part(_: int, low: int, high: int) -> None:
            jit_rows.lookup_int8(table.codes, table.scales, biases, ids, out, low, high)

    else:
        entries = _loadable(table)

        def part(_: int, low: int, high: int) -> None:
            jit_rows.lookup_float(entries, ids, out, low, high)

    _run(part, _shares(len(ids), out.nbytes))


def _loadable(table: NDArray[Any]) -> NDArray[Any]:
    """The table as the loops load it: float16 as its bits."""
    return table.view(np.uint16) if table.dtype == np.float16 else table


def bag(task: BagTask, out: Float32Array) -> None:
    """See ``embedding_bag``."""
    table, ids = task.table, task.ids
    weights = _or_empty(task.weights, _NO_FLOATS)
    padding = -2 if task.padding is None else task.padding
    if isinstance(table, RowwiseInt8):
        quantised = table
        biases = _or_empty(quantised.biases, _NO_FLOATS)

        def part(_: int, low: int, high: int) -> None:
            jit_rows.bag_int8(
                quantised.codes, quantised.scales, biases,
                ids, task.offsets, weights, task.mean, padding, out, low, high,
            )  # fmt: skip

    else:
        floats = _loadable(table)

        def part(_: int, low: int, high: int) -> None:
            jit_rows.bag_float(
                floats, ids, task.offsets, weights, task.mean, padding, out, low, high
            )

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
        jit_select.topk_range(row, mask, sign, best[share], where[share], low, high)

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
    count = int((where[0] < jit_select.NOWHERE).sum())
    return best[0, :count], where[0, :count]


def dot_topk(task: DotTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``dot_topk``; few queries are met as items are read, many by matrix products."""
    if task.k == 0:
        return
    items = task.items
    assert isinstance(items, np.ndarray)
    # Matrix products have threads of their own; two layers of threads would fight for processors.
    alone = len(task.queries) >= MATRIX_QUERIES or len(items) == 0
    shares = [(0, len(items))] if alone else _shares(len(items), items.nbytes)
    best = np.full((len(shares), len(task.queries), task.k), -np.inf, np.float32)
    where = np.full(best.shape, jit_select.NOWHERE, np.int64)

    def part(share: int, low: int, high: int) -> None:
        for first in range(low, high, BLOCK_ROWS):
            block = items[first : min(first + BLOCK_ROWS, high)].astype(np.float32, copy=False)
            _meet(task, block, first, best[share], where[share])
        for b in range(len(task.queries)):
            jit_select.unload(best[share, b], where[share, b])

    _run(part, shares)
    _write_merged(best, where, values, indices)


def _meet(
    task: DotTask, block: Float32Array, first: int, best: Float32Array, where: Int64Array
) -> None:
    """Offer a block of items, which starts at item ``first``, to every query's heap."""
    bits, boost = _or_empty(task.filter_bits, _NO_BITS), _or_empty(task.boost, _NO_FLOATS)
    rules = (bits, task.excluded, task.excluded_offsets, boost, best, where, 0)
    if len(task.queries) < MATRIX_QUERIES:
        jit_select.retrieve_float(block, first, task.queries, *rules, len(block))
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            scores = task.queries @ block.T
        jit_select.offer_scores(scores, first, *rules, len(task.queries))


def dot_topk_int8(
    task: DotTask, query_codes: RowwiseInt8, values: Float32Array, indices: Int64Array
) -> None:
    """See ``dot_topk``; items are read once, scores never leave the first-level cache."""
    if task.k == 0:
        return
    items = task.items
    assert isinstance(items, RowwiseInt8)
    queries = query_codes.codes
    work = items.codes.nbytes * max(1, len(queries))
    shares = _shares(len(items.codes), work) if len(items.codes) else [(0, 0)]
    best = np.empty((len(shares), len(queries), task.k), np.float32)
    where = np.empty(best.shape, np.int64)
    sums = queries.sum(axis=1, dtype=np.int64).astype(np.float32)
    biases = _or_empty(items.biases, _NO_FLOATS)
    bits, boost = _or_empty(task.filter_bits, _NO_BITS), _or_empty(task.boost, _NO_FLOATS)

    def part(share: int, low: int, high: int) -> None:
        jit_select.retrieve_int8(
            items.codes, items.scales, biases, queries, query_codes.scales, sums, bits,
            task.excluded, task.excluded_offsets, boost, best[share], where[share], low, high,
        )  # fmt: skip

    _run(part, shares)
    _write_merged(best, where, values, indices)


def _write_merged(
    best: Float32Array, where: Int64Array, values: Float32Array, indices: Int64Array
) -> None:
    values[:] = -np.inf
    indices[:] = -1
    for b in range(len(values)):
        found, places = merge(best[:, b], where[:, b])
        values[b, : len(found)] = found
        indices[b, : len(found)] = places
