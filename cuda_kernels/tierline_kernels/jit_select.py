"""Compiled loops that keep the k best: of a row of numbers, or of items scored as they are read."""

# Numba infers the types of the loops from their arguments, so they carry none themselves.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

import numpy as np

from tierline_kernels.jit import compiled, compiled_sums, inlined

# The index of a place nobody took; larger than any other, so it always loses a tie.
NOWHERE = np.int64(2**62)
# Items are scored this many at a time: their scores stay in the first-level cache.
BLOCK = 256


@inlined
def _worse(value, index, than_value, than_index):
    return value < than_value or (value == than_value and index > than_index)


@inlined
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


@compiled
def clear(values, indices):
    """An empty heap."""
    for u in range(values.shape[0]):
        values[u] = -np.inf
        indices[u] = NOWHERE


@compiled
def unload(values, indices):
    """Turn the heap into a list, best first."""
    for size in range(values.shape[0] - 1, 0, -1):
        value, index = values[size], indices[size]
        values[size], indices[size] = values[0], indices[0]
        _sink(values, indices, size, value, index)


@compiled
def topk_range(row, mask, sign, values, indices, low, high):
    """The k best numbers of row[low:high], best first; unused entries keep index NOWHERE."""
    k = values.shape[0]
    clear(values, indices)
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
    unload(values, indices)


@compiled
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


@compiled
def offer(scores, first, bits, excluded, values, indices):
    """Offer the scores of items first, first + 1, … to a heap; later items lose ties.

    The whole block is compared with the heap's worst entry first: nearly all blocks end there.
    """
    k = values.shape[0]
    bar = values[0]
    if bar != -np.inf:
        passed = 0
        for u in range(scores.shape[0]):
            passed += scores[u] > bar
        if passed == 0:
            return
    for u in range(scores.shape[0]):
        i = first + u
        if _worse(values[0], indices[0], scores[u], i) and _allowed(i, bits, excluded):
            _sink(values, indices, k, scores[u], i)


@compiled
def _dots_int8(codes, query, first, dots):
    for u in range(dots.shape[0]):
        dot = np.int32(0)
        for d in range(codes.shape[1]):
            dot += np.int32(codes[first + u, d]) * np.int32(query[d])
        dots[u] = dot


@compiled
def _finish_int8(dots, scales, biases, query_sum, query_scale, boost, first, scores):
    """Float32 steps in the order every back end takes (reference.int8_scores)."""
    for u in range(dots.shape[0]):
        scores[u] = np.float32(dots[u]) * scales[first + u]
    if biases.shape[0]:
        for u in range(dots.shape[0]):
            scores[u] = scores[u] + query_sum * biases[first + u]
    for u in range(dots.shape[0]):
        scores[u] = scores[u] * query_scale
    if boost.shape[0]:
        for u in range(dots.shape[0]):
            scores[u] = scores[u] + boost[first + u]


@compiled
def retrieve_int8(
    codes, scales, biases, queries, query_scales, query_sums, bits, excluded, excluded_offsets,
    boost, values, indices, low, high,
):  # fmt: skip
    """The k best items of codes[low:high] for every query, best first; items are read once."""
    dots = np.empty(BLOCK, np.int32)
    scores = np.empty(BLOCK, np.float32)
    for b in range(queries.shape[0]):
        clear(values[b], indices[b])
    for first in range(low, high, BLOCK):
        size = min(BLOCK, high - first)
        for b in range(queries.shape[0]):
            _dots_int8(codes, queries[b], first, dots[:size])
            _finish_int8(
                dots[:size], scales, biases, query_sums[b], query_scales[b], boost, first,
                scores[:size],
            )  # fmt: skip
            banned = excluded[excluded_offsets[b] : excluded_offsets[b + 1]]
            offer(scores[:size], first, bits, banned, values[b], indices[b])
    for b in range(queries.shape[0]):
        unload(values[b], indices[b])


@compiled_sums
def _dots_float(items, query, first, scores):
    for u in range(scores.shape[0]):
        dot = np.float32(0.0)
        for d in range(items.shape[1]):
            dot += items[first + u, d] * query[d]
        scores[u] = dot


@compiled
def retrieve_float(
    items, base, queries, bits, excluded, excluded_offsets, boost, values, indices, low, high
):
    """Offer items[low:high], which are items base + low, … of the catalogue, to every heap."""
    scores = np.empty(BLOCK, np.float32)
    for first in range(low, high, BLOCK):
        size = min(BLOCK, high - first)
        for b in range(queries.shape[0]):
            _dots_float(items, queries[b], first, scores[:size])
            if boost.shape[0]:
                for u in range(size):
                    scores[u] = scores[u] + boost[base + first + u]
            banned = excluded[excluded_offsets[b] : excluded_offsets[b + 1]]
            offer(scores[:size], base + first, bits, banned, values[b], indices[b])


@compiled
def offer_scores(scores, base, bits, excluded, excluded_offsets, boost, values, indices, low, high):
    """Offer finished scores [queries, items] to the heaps of queries low to high."""
    part = np.empty(BLOCK, np.float32)
    for b in range(low, high):
        banned = excluded[excluded_offsets[b] : excluded_offsets[b + 1]]
        for first in range(0, scores.shape[1], BLOCK):
            size = min(BLOCK, scores.shape[1] - first)
            for u in range(size):
                part[u] = scores[b, first + u]
                if boost.shape[0]:
                    part[u] = part[u] + boost[base + first + u]
            offer(part[:size], base + first, bits, banned, values[b], indices[b])
