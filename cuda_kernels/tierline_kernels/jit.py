"""Compiled CPU loops: plain functions over row ranges, so that threads can share the work.

They release the interpreter lock instead of using Numba's own thread pool, whose default layer
aborts the process when two server threads enter it at once.
"""

# Numba infers the types of the loops from their arguments, so they carry none themselves.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NOWHERE = np.int64(2**62)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use; keep the machine code beside the source or in the user's cache."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no writable cache folder anywhere: compile anew in each process
        return numba.njit(nogil=True, error_model="numpy")(function)


def _inlined(function: Callable[..., Any]) -> Any:
    return numba.njit(inline="always", error_model="numpy")(function)


@_compiled
def lookup_float(table, ids, out, low, high):
    for i in range(low, high):
        row = ids[i]
        if row < 0:
            out[i, :] = np.float32(0.0)
        else:
            for d in range(out.shape[1]):
                out[i, d] = table[row, d]


@_compiled
def lookup_int8(codes, scales, biases, ids, out, low, high):
    for i in range(low, high):
        row = ids[i]
        if row < 0:
            out[i, :] = np.float32(0.0)
            continue
        scale = scales[row]
        bias = biases[row] if biases.shape[0] else np.float32(0.0)
        for d in range(out.shape[1]):
            out[i, d] = np.float32(codes[row, d]) * scale + bias


@_compiled
def bag_float(table, ids, offsets, weights, mean, padding, out, low, high):
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        for p in range(offsets[b], offsets[b + 1]):
            row = ids[p]
            if row == padding:
                continue
            count += 1
            if row < 0:
                continue
            weight = weights[p] if weights.shape[0] else np.float32(1.0)
            for d in range(total.shape[0]):
                total[d] += weight * table[row, d]
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
            for d in range(total.shape[0]):
                total[d] *= share


@_compiled
def bag_int8(codes, scales, biases, ids, offsets, weights, mean, padding, out, low, high):
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        bias = np.float32(0.0)
        for p in range(offsets[b], offsets[b + 1]):
            row = ids[p]
            if row == padding:
                continue
            count += 1
            if row < 0:
                continue
            weight = weights[p] if weights.shape[0] else np.float32(1.0)
            scale = weight * scales[row]
            if biases.shape[0]:
                bias += weight * biases[row]
            for d in range(total.shape[0]):
                total[d] += scale * np.float32(codes[row, d])
        share = np.float32(1.0)
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
        for d in range(total.shape[0]):
            total[d] = (total[d] + bias) * share


@_inlined
def _worse(value, index, than_value, than_index):
    return value < than_value or (value == than_value and index > than_index)


@_inlined
def _sink(values, indices, size, value, index):
    """Replace the worst kept entry (the root) and restore the heap."""
    p = 0
    while True:
        c = 2 * p + 1
        if c >= size:
            break
        if c + 1 < size and _worse(values[c + 1], indices[c + 1], values[c], indices[c]):
            c += 1
        if not _worse(values[c], indices[c], value, index):
            break
        values[p] = values[c]
        indices[p] = indices[c]
        p = c
    values[p] = value
    indices[p] = index


@_inlined
def _unload(values, indices):
    """Turn the heap into a list, best first."""
    for size in range(values.shape[0] - 1, 0, -1):
        value, index = values[size], indices[size]
        values[size], indices[size] = values[0], indices[0]
        _sink(values, indices, size, value, index)


@_inlined
def _clear(values, indices):
    for u in range(values.shape[0]):
        values[u] = -np.inf
        indices[u] = NOWHERE


@_compiled
def topk_range(row, mask, sign, values, indices, low, high):
    """The k best numbers of row[low:high], best first; unused entries keep index NOWHERE."""
    k = values.shape[0]
    _clear(values, indices)
    masked = mask.shape[0] > 0
    for start in range(low, high, 16):
        stop = min(start + 16, high)
        if stop - start == 16:
            bar = values[0]
            passed = 0
            for u in range(16):
                passed += sign * row[start + u] > bar
            if passed == 0 and bar != -np.inf:
                continue
        for i in range(start, stop):
            value = sign * row[i]
            if _worse(values[0], indices[0], value, i) and (not masked or mask[i]):
                _sink(values, indices, k, value, i)
    _unload(values, indices)


@_inlined
def _allowed(item, bits, excluded):
    if bits.shape[0] and not (bits[item >> 5] >> np.uint32(item & 31)) & np.uint32(1):
        return False
    low = 0
    high = excluded.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if excluded[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low == excluded.shape[0] or excluded[low] != item


@_compiled
def dot_range_int8(
    codes, scales, biases, query, query_scale, query_sum, bits, excluded, boost, values, indices,
    low, high,
):  # fmt: skip
    """The k best items of codes[low:high] for one query, best first."""
    k = values.shape[0]
    _clear(values, indices)
    for i in range(low, high):
        dot = np.int32(0)
        for d in range(codes.shape[1]):
            dot += np.int32(codes[i, d]) * np.int32(query[d])
        score = np.float32(dot) * scales[i]
        if biases.shape[0]:
            score = score + query_sum * biases[i]
        score = score * query_scale
        if boost.shape[0]:
            score = score + boost[i]
        if _worse(values[0], indices[0], score, i) and _allowed(i, bits, excluded):
            _sink(values, indices, k, score, i)
    _unload(values, indices)


@_compiled
def push_scores(scores, first, bits, excluded, boost, values, indices):
    """Offer one query's scores of items first, first+1, … to its heap."""
    k = values.shape[0]
    for u in range(scores.shape[0]):
        score = scores[u]
        i = first + u
        if boost.shape[0]:
            score = score + boost[i]
        if _worse(values[0], indices[0], score, i) and _allowed(i, bits, excluded):
            _sink(values, indices, k, score, i)


@_compiled
def unload(values, indices):
    _unload(values, indices)
