"""Kernels that score items as they read them and keep the best: scores never reach memory.

Vector kernels spread a row over lanes in 16-byte pieces: a warp asks for 4 KiB of rows (8 loads a
lane) and adds up so that each item's score ends in a lane of its own. The tensor-core kernel
(tensor.py) meets 16 items with 8 queries at a time. A score is compared with the list's last one
before anything else about its item is read: filter, exclusions and keys concern the few that pass.
"""

# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from tierline_kernels.cuda.intrinsics import (
    cuda,
    dp4a,
    half_to_float,
    inlined,
    load16,
    product,
    short_to_float,
    word_to_float,
)
from tierline_kernels.cuda.rows import ENTRIES, PIECE, Kind
from tierline_kernels.cuda.select import ALL, NOBODY, insert, pack, value_of

# What a launch asks of a kernel: bits of its last argument. UNLISTED writes every key instead.
BIASED, FILTERED, EXCLUDING, BOOSTED, UNLISTED = 1, 2, 4, 8, 16
TILE = 32  # items of a warp at a time where a lane takes a whole item
LOADS = 8  # 16-byte loads a lane has in flight
LOADS_TOGETHER = 4  # the same where it meets several queries, whose sums take registers
TOGETHER = 4  # queries a vector kernel can meet with a row it has read
TENSOR_QUERIES = 8

_floats, _longs = types.CPointer(types.float32), types.CPointer(types.int64)
_words = types.CPointer(types.uint32)


def scan_signature(kind: Kind) -> Any:
    """items, scales, biases, queries, query scales, query sums, bits, excluded, its offsets,
    boost, keys; items, queries, keys a query, width, query groups a block, last lane, flags."""
    queries = types.CPointer(types.int8) if kind == "int8" else _floats
    return types.void(
        types.CPointer(ENTRIES[kind]), _floats, _floats, queries, _floats, _floats, _words, _longs,
        _longs, _floats, _longs, *[types.int64] * 7,
    )  # fmt: skip


def lanes_per_row(kind: Kind, d: int) -> int:
    """How many lanes read one item together, or 0 where its rows do not fit 16-byte loads."""
    pieces, rest = divmod(d, PIECE[kind])
    return pieces if rest == 0 and pieces in (1, 2, 4, 8, 16, 32) else 0


@inlined
def _listed(excluded, low, end, i):
    """Whether item i is in the sorted list excluded[low:end]."""
    high = end
    while low < high:
        middle = (low + high) >> 1
        if excluded[middle] < i:
            low = middle + 1
        else:
            high = middle
    found = False
    if low < end:
        found = excluded[low] == i
    return found


@inlined
def allowed(score, i, query, bits, excluded, offsets, flags):
    """Whether item i may be returned: its score is a number, and no rule forbids it."""
    fine = score == score
    if fine and (flags & FILTERED) != 0:
        fine = ((bits[i >> 5] >> np.uint32(i & 31)) & np.uint32(1)) != 0
    if fine and (flags & EXCLUDING) != 0:
        fine = not _listed(excluded, offsets[query], offsets[query + 1], i)
    return fine


@inlined
def finish_int8(dot, i, scales, biases, query_scale, query_sum, flags):
    """Float32 steps in the order every back end takes (reference.int8_scores)."""
    score = product(np.float32(dot), scales[i])
    if (flags & BIASED) != 0:
        score = score + product(query_sum, biases[i])
    return product(score, query_scale)


def _make_finish(kind):
    quantised = kind == "int8"

    @inlined
    def finish(total, i, query, scales, biases, query_scales, query_sums, boost, flags):
        score = np.float32(total)
        if quantised:
            query_sum = np.float32(0.0)
            if (flags & BIASED) != 0:
                query_sum = query_sums[query]
            score = finish_int8(total, i, scales, biases, query_scales[query], query_sum, flags)
        if (flags & BOOSTED) != 0:
            score = score + boost[i]
        return score

    return finish


def _make_gather(lanes, sums_held):
    """Adds sums[r] over the ``lanes`` lanes of a row; their lane p ends with that of
    r = p // (lanes / sums_held).

    While a lane holds several sums, each step hands half of them over: half the shuffles at each.
    """
    step = lanes // 2
    if lanes == 1:

        @inlined
        def done(sums, first, part):
            return sums[first]

        return done
    rest = _make_gather(step, max(1, sums_held // 2))
    given_away = sums_held // 2

    @inlined
    def halve(sums, first, part):
        upper = (part & step) != 0
        for r in range(given_away):
            low = sums[first + r]
            high = sums[first + r + given_away]
            given = low if upper else high
            sums[first + r] = (high if upper else low) + cuda.shfl_xor_sync(ALL, given, step)
        return rest(sums, first, part)

    @inlined
    def add(sums, first, part):
        sums[first] += cuda.shfl_xor_sync(ALL, sums[first], step)
        return rest(sums, first, part)

    return halve if sums_held > 1 else add


def _make_meet(kind, lanes, count):
    """A query's pieces into registers, and a 16-byte piece of an item met with them."""
    halves = kind == "float16"
    size = 4 if kind == "int8" else PIECE[kind]
    per_word = PIECE[kind] // 4
    d = lanes * PIECE[kind]

    @inlined
    def load_bytes(queries, query, part, held, at):
        words = load16(queries, query * d + part * 16)
        for w in range(4):
            held[at + w] = words[w]

    @inlined
    def load_floats(queries, query, part, held, at):
        for j in range(size):
            held[at + j] = queries[query * d + part * size + j]

    @inlined
    def meet_bytes(words, held, at):
        dot = np.int32(0)
        for w in range(4):
            dot = dp4a(words[w], held[at + w], dot)
        return dot

    @inlined
    def meet_floats(words, held, at):
        total = np.float32(0.0)
        for w in range(4):
            for j in range(per_word):
                value = half_to_float(words[w], j) if halves else word_to_float(words[w])
                total += value * held[at + w * per_word + j]
        return total

    if kind == "int8":
        return load_bytes, meet_bytes, size, types.int32
    return load_floats, meet_floats, size, types.float32


def tile(kind: Kind, d: int, count: int) -> int:
    """How many items a warp of a vector kernel takes at a time."""
    lanes = lanes_per_row(kind, d)
    return 32 // lanes * min(lanes, LOADS if count == 1 else LOADS_TOGETHER)


def _make_read(meet, r, loads, count, size, lanes, row_bytes):
    """Reads the lane's piece r and those after it, each met with every query; a chain, so that
    sums stay in registers."""
    rest: Any = None
    if r + 1 < loads:
        rest = _make_read(meet, r + 1, loads, count, size, lanes, row_bytes)
    ahead = r * (32 // lanes)
    last = rest is None

    @inlined
    def read(items, held, sums, start, lane, n):
        row = min(start + ahead + lane // lanes, n - 1)
        words = load16(items, row * row_bytes + lane % lanes * 16)
        for q in range(count):
            sums[q * loads + r] = meet(words, held, q * size)
        if not last:
            rest(items, held, sums, start, lane, n)

    return read


@inlined
def _consider(kept, candidate, score, i, query, bits, excluded, offsets, flags, lane, last):
    """The warp's list after each lane's candidate was held against it."""
    bar = value_of(cuda.shfl_sync(ALL, kept, last))
    passes = candidate and not score <= bar
    if cuda.ballot_sync(ALL, passes) != 0:
        key = np.int64(NOBODY)
        if passes and allowed(score, i, query, bits, excluded, offsets, flags):
            key = pack(score, i)
        kept = insert(kept, key, lane, last)
    return kept


def make_scan(kind: Kind, d: int, count: int) -> Any:
    """Meet ``count`` queries (blockIdx.y, from count times it on) with rows in 16-byte pieces."""
    lanes = lanes_per_row(kind, d)
    at_once, step = 32 // lanes, tile(kind, d, count)
    loads = step // at_once
    copies = lanes // loads  # lanes that end with the same score; the first of them speaks
    load, meet, size, number = _make_meet(kind, lanes, count)
    gather, finish = _make_gather(lanes, loads), _make_finish(kind)
    read = _make_read(meet, 0, loads, count, size, lanes, d * 16 // PIECE[kind])
    pieces, partial_sums = count * size, count * loads

    def scan(
        items, scales, biases, queries, query_scales, query_sums, bits, excluded, offsets, boost,
        keys, n, query_count, per_query, width, groups, last, flags,
    ):  # fmt: skip
        lane = cuda.threadIdx.x & 31
        part = lane % lanes
        warp = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5)
        warps = np.int64(cuda.gridDim.x) * (cuda.blockDim.x >> 5)
        base = np.int64(cuda.blockIdx.y) * count
        held = cuda.local.array(pieces, number)
        sums = cuda.local.array(partial_sums, number)
        kept = cuda.local.array(count, types.int64)
        for q in range(count):
            kept[q] = NOBODY
            load(queries, min(base + q, query_count - 1), part, held, q * size)
        start = warp * step
        while start < n:
            read(items, held, sums, start, lane, n)
            i = start + part // copies * at_once + lane // lanes
            item = min(i, n - 1)
            for q in range(count):
                query = min(base + q, query_count - 1)
                total = gather(sums, q * loads, part)
                score = finish(
                    total, item, query, scales, biases, query_scales, query_sums, boost, flags
                )
                candidate = i < n and part % copies == 0
                kept[q] = _consider(
                    kept[q], candidate, score, i, query, bits, excluded, offsets, flags, lane, last
                )
            start += warps * step
        for q in range(count):
            if base + q < query_count:
                keys[(base + q) * per_query + warp * 32 + lane] = kept[q]

    return scan


def make_scan_columns(kind: Kind) -> Any:
    """Meet query blockIdx.y with rows of any width: a lane takes a whole item.

    With UNLISTED it writes every item's key: the exact way where lists were not enough.
    """
    quantised, halves = kind == "int8", kind == "float16"
    nothing = np.int32(0) if quantised else np.float32(0.0)
    finish = _make_finish(kind)

    def scan(
        items, scales, biases, queries, query_scales, query_sums, bits, excluded, offsets, boost,
        keys, n, query_count, per_query, width, groups, last, flags,
    ):  # fmt: skip
        lane = cuda.threadIdx.x & 31
        warp = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5)
        warps = np.int64(cuda.gridDim.x) * (cuda.blockDim.x >> 5)
        query = np.int64(cuda.blockIdx.y)
        kept = np.int64(NOBODY)
        start = warp * TILE
        while start < n:
            i = start + lane
            key = np.int64(NOBODY)
            if i < n:
                total = nothing
                for c in range(width):
                    entry = items[i * width + c]
                    if quantised:
                        total += np.int32(entry) * np.int32(queries[query * width + c])
                    elif halves:
                        total += short_to_float(entry) * queries[query * width + c]
                    else:
                        total += np.float32(entry) * queries[query * width + c]
                score = finish(
                    total, i, query, scales, biases, query_scales, query_sums, boost, flags
                )
                if allowed(score, i, query, bits, excluded, offsets, flags):
                    key = pack(score, i)
                if (flags & UNLISTED) != 0:
                    keys[query * per_query + i] = key
            if (flags & UNLISTED) == 0:
                kept = insert(kept, key, lane, last)
            start += warps * TILE
        if (flags & UNLISTED) == 0:
            keys[query * per_query + warp * 32 + lane] = kept

    return scan
