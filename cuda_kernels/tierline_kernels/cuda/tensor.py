"""The int8 scan on tensor cores: a warp meets 16 items with 8 queries at a time (8.0 and later).

Lane 4 g + t reads 16 bytes of items g and g + 8 and of query g, at byte 16 t of each 64: items and
queries agree on the order of columns, so any order serves and all loads are 16 bytes wide. It ends
with the products of items g and g + 8 with queries 2 t and 2 t + 1. The warps of a block take
different queries and the same items, which the block's first-level cache then reads once.
"""

# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from tierline_kernels.cuda.intrinsics import cuda, inlined, load16, mma_s8
from tierline_kernels.cuda.retrieve import BOOSTED, TENSOR_QUERIES, allowed, finish_int8
from tierline_kernels.cuda.select import ALL, NOBODY, pack, put, value_of

ROWS = 16


def _make_take(q):
    """Puts a key into one of the lists from q on; a chain, so that lists stay in registers."""
    rest = _make_take(q + 1) if q + 1 < TENSOR_QUERIES else None

    @inlined
    def last_one(kept, bars, target, offered, lane, four, side, last):
        kept[q] = put(kept[q], offered, lane)
        bar = value_of(cuda.shfl_sync(ALL, kept[q], last))
        if four == q >> 1:
            bars[side] = bar

    if rest is None:
        return last_one

    @inlined
    def take(kept, bars, target, offered, lane, four, side, last):
        if target == q:
            last_one(kept, bars, target, offered, lane, four, side, last)
        else:
            rest(kept, bars, target, offered, lane, four, side, last)

    return take


_take = _make_take(0)


@inlined
def _offer(passes, score, i, base, side, kept, bars, lane, last, bits, excluded, offsets, flags):
    """Offer each lane's score for its query 2 t + side to that query's list."""
    four = lane & 3
    key = np.int64(NOBODY)
    if passes and allowed(score, i, base + 2 * four + side, bits, excluded, offsets, flags):
        key = pack(score, i)
    waiting = cuda.ballot_sync(ALL, key != np.int64(NOBODY))
    while waiting != 0:
        source = cuda.ffs(waiting) - 1
        waiting = waiting & (waiting - 1)
        offered = cuda.shfl_sync(ALL, key, source)
        # The list is the same in every lane, so the warp stays together.
        _take(kept, bars, 2 * (source & 3) + side, offered, lane, four, side, last)


def _make_dots(d):
    """The 16 x 8 products of the items from ``start`` on with the held queries."""
    chunks = d // 64

    @inlined
    def dots(items, held, row, below, four):
        found = (np.int32(0), np.int32(0), np.int32(0), np.int32(0))
        for c in range(chunks):
            a = load16(items, row * d + c * 64 + four * 16)
            b = load16(items, below * d + c * 64 + four * 16)
            found = mma_s8((a[0], b[0], a[1], b[1]), (held[4 * c], held[4 * c + 1]), found)
            found = mma_s8((a[2], b[2], a[3], b[3]), (held[4 * c + 2], held[4 * c + 3]), found)
        return found

    return dots


def _make_hold(words):
    """This lane's share of the group's queries, and what finishes its two queries' scores."""

    @inlined
    def hold(queries, query_scales, query_sums, base, query_count, lane, held, scale, total, bars):
        group, four = lane >> 2, lane & 3
        for c in range(words // 4):
            piece = load16(queries, (base + group) * (words * 16) + c * 64 + four * 16)
            for w in range(4):
                held[4 * c + w] = piece[w]
        for side in range(2):
            # No number beats infinity: a query that only fills up the group keeps nothing.
            bars[side] = value_of(np.int64(NOBODY))
            if base + 2 * four + side >= query_count:
                bars[side] = np.float32(np.inf)
            scale[side] = query_scales[base + 2 * four + side]
            total[side] = query_sums[base + 2 * four + side]

    return hold


@inlined
def _finish(found, i, n, scales, biases, scale, total, boost, flags, scores, bars):
    """The lane's four scores, and whether one of them passes its query's list."""
    passes = False
    for half in range(2):
        item = min(i + 8 * half, n - 1)
        for side in range(2):
            at = 2 * half + side
            score = finish_int8(found[at], item, scales, biases, scale[side], total[side], flags)
            if (flags & BOOSTED) != 0:
                score = score + boost[item]
            scores[at] = score
            if i + 8 * half < n and not score <= bars[side]:
                passes = True
    return passes


def make_tensor_scan(d: int) -> Any:
    """Meet groups of 8 queries with int8 items of a width that 64 divides.

    ``groups`` (1, 2 or 4) of a block's warps take one group each; queries are padded to full
    groups of groups. Arguments as in ``retrieve.scan_signature("int8")``.
    """
    words = d // 16
    dots, hold = _make_dots(d), _make_hold(words)

    def scan(
        items, scales, biases, queries, query_scales, query_sums, bits, excluded, offsets, boost,
        keys, n, query_count, per_query, width, groups, last, flags,
    ):  # fmt: skip
        lane = cuda.threadIdx.x & 31
        stripes = (cuda.blockDim.x >> 5) // groups
        warp = cuda.threadIdx.x >> 5
        stripe = np.int64(cuda.blockIdx.x) * stripes + warp // groups
        base = (np.int64(cuda.blockIdx.y) * groups + warp % groups) * TENSOR_QUERIES
        held = cuda.local.array(words, types.int32)
        kept = cuda.local.array(TENSOR_QUERIES, types.int64)
        bars = cuda.local.array(2, types.float32)
        scale = cuda.local.array(2, types.float32)
        total = cuda.local.array(2, types.float32)
        scores = cuda.local.array(4, types.float32)
        hold(queries, query_scales, query_sums, base, query_count, lane, held, scale, total, bars)
        for q in range(TENSOR_QUERIES):
            kept[q] = NOBODY
        start = stripe * ROWS
        while start < n:
            i = start + (lane >> 2)
            found = dots(items, held, min(i, n - 1), min(i + 8, n - 1), lane & 3)
            passes = _finish(
                found, i, n, scales, biases, scale, total, boost, flags, scores, bars
            )  # fmt: skip
            if cuda.ballot_sync(ALL, passes) != 0:
                for half in range(2):
                    for side in range(2):
                        at = 2 * half + side
                        wanted = i + 8 * half < n and not scores[at] <= bars[side]
                        _offer(
                            wanted, scores[at], i + 8 * half, base, side, kept, bars, lane, last,
                            bits, excluded, offsets, flags,
                        )  # fmt: skip
            start += np.int64(cuda.gridDim.x) * stripes * ROWS
        for q in range(TENSOR_QUERIES):
            if base + q < query_count:
                keys[(base + q) * per_query + stripe * 32 + lane] = kept[q]

    return scan
