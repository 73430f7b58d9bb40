"""The operations in slow, obviously right NumPy; float64 inside, float32 outside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.arguments import BagTask, DotTask, Int64Array, TopkTask
from tierline_kernels.layout import Float32Array, RowwiseInt8, Table


def lookup(table: Table, ids: Int64Array, out: Float32Array) -> None:
    """Write row ``ids[i]`` to ``out[i]``; -1 writes zeros."""
    for i, row in enumerate(ids):
        out[i] = 0.0 if row < 0 else _row(table, row)


def bag(task: BagTask, out: Float32Array) -> None:
    """Write the pooled rows of each bag to ``out``."""
    for b in range(len(out)):
        total = np.zeros(out.shape[1], np.float64)
        count = 0
        for p in range(task.offsets[b], task.offsets[b + 1]):
            row = task.ids[p]
            if task.padding is not None and row == task.padding:
                continue
            count += 1
            if row >= 0:
                weight = 1.0 if task.weights is None else float(task.weights[p])
                total += weight * _row(task.table, row)
        out[b] = total / count if task.mean and count else total


def topk(task: TopkTask, values: Float32Array, indices: Int64Array) -> None:
    """Write the k best of each row, best first, ties by lowest index, tail -1."""
    for b, row in enumerate(task.x):
        kept = np.arange(task.lengths[b])
        if task.mask is not None:
            kept = kept[task.mask[b % len(task.mask), : task.lengths[b]]]
        _select(row, kept, task, values[b], indices[b])


def _select(
    row: Float32Array, kept: NDArray[Any], task: TopkTask, values: Float32Array, indices: Int64Array
) -> None:
    lost = kept[np.isnan(row[kept])]
    real = kept[~np.isnan(row[kept])]
    wide = row.astype(np.float64)
    real = real[np.lexsort((real, -wide[real] if task.largest else wide[real]))]
    order = np.concatenate([lost, real] if task.nan_first else [real, lost])[: task.k]
    values[:] = -np.inf if task.largest else np.inf
    indices[:] = -1
    values[: len(order)] = row[order]
    indices[: len(order)] = order


def dot_topk(task: DotTask, values: Float32Array, indices: Int64Array) -> None:
    """Write the k best items of each query; float scores in float64, rounded once."""
    n = task.items.shape[0]
    for b, query in enumerate(task.queries):
        scores = np.zeros(n, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            for i in range(n):
                scores[i] = float(np.dot(query.astype(np.float64), _row(task.items, i)))
            single = scores.astype(np.float32)
            if task.boost is not None:
                single = single + task.boost
        _keep_best(task, b, single, values[b], indices[b])


def dot_topk_int8(
    task: DotTask, query_codes: RowwiseInt8, values: Float32Array, indices: Int64Array
) -> None:
    """Write the k best items by the integer score (see ``int8_scores``)."""
    for b in range(len(values)):
        scores = int8_scores(task, query_codes, b)
        _keep_best(task, b, scores, values[b], indices[b])


def int8_scores(task: DotTask, query_codes: RowwiseInt8, b: int) -> Float32Array:
    """Query b's score of every item, in exactly the steps every back end takes.

    The dot product is an exact integer; then, each step rounded to float32: times the item's
    scale, plus the query's code sum times the item's bias, times the query's scale, plus boost.
    """
    items = task.items
    assert isinstance(items, RowwiseInt8)
    query = query_codes.codes[b].astype(np.int64)
    dots = np.array([int((row.astype(np.int64) * query).sum()) for row in items.codes], np.int32)
    with np.errstate(invalid="ignore", over="ignore"):
        scores: Float32Array = dots.astype(np.float32) * items.scales
        if items.biases is not None:
            scores = scores + np.float32(int(query.sum())) * items.biases
        scores = scores * query_codes.scales[b]
        if task.boost is not None:
            scores = scores + task.boost
    return scores


def _keep_best(
    task: DotTask, b: int, scores: Float32Array, values: Float32Array, indices: Int64Array
) -> None:
    allowed = ~np.isnan(scores)
    if task.filter_bits is not None:
        for i in range(len(scores)):
            allowed[i] &= bool(int(task.filter_bits[i // 32]) >> (i % 32) & 1)
    for i in task.excluded[task.excluded_offsets[b] : task.excluded_offsets[b + 1]]:
        if i >= 0:
            allowed[i] = False
    lengths = np.array([len(scores)])
    selection = TopkTask(scores[None], task.k, True, allowed[None], lengths, False)
    topk(selection, values[None], indices[None])


def _row(table: Table, row: int) -> NDArray[np.float64]:
    if not isinstance(table, RowwiseInt8):
        return np.asarray(table[row], np.float64)
    wide = np.asarray(table.codes[row], np.float64) * float(table.scales[row])
    return wide if table.biases is None else wide + float(table.biases[row])
