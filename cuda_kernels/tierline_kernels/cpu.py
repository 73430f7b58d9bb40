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
_NO_MASK = np.empty((1, 0), np.bool_)


def threads() -> int:
    """How many threads share large work: the processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(size: int, _process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="tierline-kernels")


def _shares(rows: int, work: int) -> list[tuple[int, int]]:
    """Row ranges for ``work`` bytes: a few a thread, so that a thread that is held up by the
    machine's other work does not hold up the answer."""
    if work < 2 * SHARE_BYTES:  # most calls: not even the processors need be counted
        return [(0, rows)]
    count = max(1, min(SHARES_A_THREAD * threads(), rows, work // SHARE_BYTES))
    edges = [rows * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _bag_shares(offsets: Int64Array, row_bytes: int) -> list[tuple[int, int]]:
    """As ``_shares``, for bags of any lengths: about as many rows each, read or written."""
    rows = offsets[1:] + np.arange(1, len(offsets))
    count = len(_shares(len(rows), int(rows[-1]) * row_bytes)) if len(rows) else 1
    cuts = np.searchsorted(rows, [rows[-1] * i // count for i in range(1, count)], side="right")
    edges = [0, *(int(cut) for cut in cuts), len(rows)]
    return [(low, high) for low, high in pairwise(edges) if low < high]


def _hands(shares: list[tuple[int, int]]) -> int:
    """How many threads take part in the work."""
    return min(threads(), len(shares))


def _run(part: Callable[[int, int, int], None], shares: list[tuple[int, int]]) -> None:
    """Run ``part(hand, low, high)`` for each share; the caller's thread is hand 0 and works along.
    A hand takes its shares in rising order."""
    if len(shares) == 1:
        part(0, *shares[0])
        return
    waiting = iter(shares)

    def work(hand: int) -> None:
        for low, high in waiting:
            part(hand, low, high)

    jobs = [_pool(threads(), os.getpid()).submit(work, hand) for hand in range(1, _hands(shares))]
    work(0)
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
    table, weights = task.table, _or_empty(task.weights, _NO_FLOATS)
    padding = -2 if task.padding is None else task.padding
    scales = biases = _NO_FLOATS
    if isinstance(table, RowwiseInt8):
        entries: NDArray[Any] = table.codes
        scales, biases = table.scales, _or_empty(table.biases, _NO_FLOATS)
    else:
        entries = _loadable(table)

    def part(_: int, low: int, high: int) -> None:
        jit_rows.bag(
            entries, scales, biases, task.ids, task.offsets, weights, task.mean, padding, out,
            low, high,
        )  # fmt: skip

    _run(part, _bag_shares(task.offsets, out.shape[1] * 4))


def topk(task: TopkTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``topk``; a few rows are shared out in pieces, many as they are."""
    if indices.size == 0:
        return
    sign = np.float32(1.0 if task.largest else -1.0)
    best, where = np.empty_like(values), np.empty_like(indices)
    masks = _NO_MASK if task.mask is None else task.mask
    if len(task.x) >= SHARES_A_THREAD * threads():

        def part(_: int, low: int, high: int) -> None:
            jit_select.topk_rows(task.x, masks, sign, task.lengths, best, where, low, high)

        _run(part, _shares(len(task.x), task.x.nbytes))
    else:
        for b, row in enumerate(task.x):
            _share_row(row[: task.lengths[b]], masks[b % len(masks)], sign, best[b], where[b])
    none = where == jit_select.NOWHERE
    indices[:] = np.where(none, -1, where)
    # The numbers themselves: a heap may have turned their signs, and the sign of a zero counts.
    if task.x.shape[1]:
        values[:] = np.take_along_axis(task.x, np.where(none, 0, where), axis=1)
    values[none] = -sign * np.float32(np.inf)
    for b in range(len(task.x)):
        if task.nan_first or none[b].any():
            _place_nan(task, b, values[b], indices[b])


def _share_row(
    row: Float32Array,
    mask: NDArray[np.bool_],
    sign: np.float32,
    best: Float32Array,
    where: Int64Array,
) -> None:
    """The k best of one row, best first; unused entries hold index NOWHERE."""
    shares = _shares(len(row), row.nbytes)
    heaps, places = _empty_heaps(_hands(shares), len(best))

    def part(hand: int, low: int, high: int) -> None:
        jit_select.topk_range(row, mask, sign, heaps[hand], places[hand], low, high)

    _run(part, shares)
    best[:], where[:] = _merge(heaps, places)


def _empty_heaps(*shape: int) -> tuple[Float32Array, Int64Array]:
    return np.full(shape, -np.inf, np.float32), np.full(shape, jit_select.NOWHERE, np.int64)


def _place_nan(task: TopkTask, b: int, values: Float32Array, indices: Int64Array) -> None:
    """Put the NaN of row b where the task wants them: ahead of its numbers, or behind."""
    row = task.x[b, : task.lengths[b]]
    lost = np.isnan(row)
    if task.mask is not None:
        lost &= task.mask[b % len(task.mask), : len(row)]
    found = indices[indices >= 0]
    both = [np.flatnonzero(lost), found] if task.nan_first else [found, np.flatnonzero(lost)]
    places = np.concatenate(both)[: task.k]
    indices[: len(places)] = places
    values[: len(places)] = row[places]


def _merge(heaps: Float32Array, places: Int64Array) -> tuple[Float32Array, Int64Array]:
    """One list, best first, of several heaps [heaps, k]."""
    if len(heaps) == 1:
        jit_select.unload(heaps[0], places[0])
        return heaps[0], places[0]
    order = np.lexsort((places.ravel(), -heaps.ravel()))[: heaps.shape[1]]
    return heaps.ravel()[order], places.ravel()[order]


def dot_topk(task: DotTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``dot_topk``; few queries are met as items are read, many by matrix products."""
    if task.k == 0:
        return
    items = task.items
    assert isinstance(items, np.ndarray)
    # Matrix products have threads of their own; two layers of threads would fight for processors.
    alone = len(task.queries) >= MATRIX_QUERIES or len(items) == 0
    shares = [(0, len(items))] if alone else _shares(len(items), items.nbytes)
    heaps, places = _empty_heaps(_hands(shares), len(task.queries), task.k)

    def part(hand: int, low: int, high: int) -> None:
        for first in range(low, high, BLOCK_ROWS):
            block = items[first : min(first + BLOCK_ROWS, high)].astype(np.float32, copy=False)
            _meet(task, block, first, heaps[hand], places[hand])

    _run(part, shares)
    _write_merged(heaps, places, values, indices)


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
    width, piece = items.codes.shape[1], jit_select.PIECE
    queries = np.zeros((len(task.queries), -(-width // piece) * piece), np.int8)
    queries[:, :width] = query_codes.codes
    work = items.codes.nbytes * max(1, len(queries))
    shares = _shares(len(items.codes), work) if len(items.codes) else [(0, 0)]
    heaps, places = _empty_heaps(_hands(shares), len(queries), task.k)
    sums = queries.sum(axis=1, dtype=np.int64).astype(np.float32)
    biases = _or_empty(items.biases, _NO_FLOATS)
    bits, boost = _or_empty(task.filter_bits, _NO_BITS), _or_empty(task.boost, _NO_FLOATS)

    def part(hand: int, low: int, high: int) -> None:
        jit_select.retrieve_int8(
            items.codes, items.scales, biases, queries, query_codes.scales, sums, bits,
            task.excluded, task.excluded_offsets, boost, heaps[hand], places[hand], low, high,
        )  # fmt: skip

    _run(part, shares)
    _write_merged(heaps, places, values, indices)


def _write_merged(
    heaps: Float32Array, places: Int64Array, values: Float32Array, indices: Int64Array
) -> None:
    """The best of all hands' heaps [hands, queries, k]; -inf and -1 where nothing was left."""
    for b in range(len(values)):
        values[b], indices[b] = _merge(heaps[:, b], places[:, b])
    values[indices == jit_select.NOWHERE] = -np.inf
    indices[indices == jit_select.NOWHERE] = -1
