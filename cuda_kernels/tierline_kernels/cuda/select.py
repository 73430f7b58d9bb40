"""Kernels that keep the k best: sorted lists across a warp's lanes, merged by a block's sort.

A candidate is one int64: the score's bits made to sort as integers above the complement of its
index. Keys are unique and totally ordered, so results do not depend on grid or block sizes.
"""

# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numba import types

from tierline_kernels.cuda.intrinsics import (
    cuda,
    dp4a,
    float_to_word,
    half_to_float,
    load16,
    product,
    short_to_float,
    word_to_float,
)
from tierline_kernels.cuda.rows import ENTRIES, PIECE, Kind

# A warp keeps one candidate a lane; beyond this k every key goes through the block sort.
LANES = 32
NOBODY = -(2**63)
NAN_LAST, NAN_FIRST = -(2**31) + 1, 2**31 - 1
ALL = 0xFFFFFFFF
Keep = Literal["list", "all"]

_floats, _longs = types.CPointer(types.float32), types.CPointer(types.int64)
_bytes, _words = types.CPointer(types.uint8), types.CPointer(types.uint32)

KEYS_SIGNATURE = types.void(_floats, _bytes, _longs, _longs, types.int64, types.int64, types.int64)
SORT_SIGNATURE = types.void(_longs, _longs, types.int64, types.int64)


def dot_signature(kind: Kind) -> Any:
    """items, scales, biases, queries, query scales, query sums, bits, excluded, its offsets,
    boost, keys; n, keys a query."""
    entries = types.CPointer(ENTRIES[kind])
    queries = types.CPointer(types.int8) if kind == "int8" else _floats
    return types.void(
        entries, _floats, _floats, queries, _floats, _floats, _words, _longs, _longs, _floats,
        _longs, types.int64, types.int64,
    )  # fmt: skip


@cuda.jit(device=True, inline="always")
def pack(value, index):
    """The key of a number: larger for larger numbers, then for lower indices."""
    word = np.int64(float_to_word(value + np.float32(0.0)))  # adding 0 makes -0 into +0
    if word < 0:
        word = word ^ np.int64(0x7FFFFFFF)
    return (word << np.int64(32)) | (np.int64(0xFFFFFFFF) - np.int64(index))


@cuda.jit(device=True, inline="always")
def insert(kept, offered, lane):
    """Offer each lane's key to the warp's descending list; returns this lane's kept key."""
    bar = cuda.shfl_sync(ALL, kept, 31)
    waiting = cuda.ballot_sync(ALL, offered > bar)
    for source in range(32):
        if (waiting >> source) & 1:
            key = cuda.shfl_sync(ALL, offered, source)
            place = cuda.popc(cuda.ballot_sync(ALL, kept > key))
            above = cuda.shfl_up_sync(ALL, kept, 1)
            if lane == place:
                kept = key
            elif lane > place:
                kept = above
    return kept


def make_keys(*, keep: Keep, masked: bool, largest: bool, nan_first: bool) -> Any:
    """Keys of each row of numbers: the warps' lists, or every key for the block sort."""
    lists = keep == "list"
    for_nan = NAN_FIRST if nan_first else NAN_LAST

    def keys_of_rows(x, mask, lengths, keys, n, mask_stride, per_row):
        lane = cuda.threadIdx.x & 31
        warp = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5)
        warps = np.int64(cuda.gridDim.x) * (cuda.blockDim.x >> 5)
        row = np.int64(cuda.blockIdx.y)
        length = lengths[row]
        kept = np.int64(NOBODY)
        start = warp * 32
        while start < n:
            i = start + lane
            key = np.int64(NOBODY)
            wanted = i < length
            if masked and wanted:
                wanted = mask[row * mask_stride + i] != 0
            if wanted:
                value = x[row * n + i]
                if value != value:
                    key = (np.int64(for_nan) << np.int64(32)) | (np.int64(0xFFFFFFFF) - i)
                elif largest:
                    key = pack(value, i)
                else:
                    key = pack(-value, i)
            if lists:
                kept = insert(kept, key, lane)
            elif i < n:
                keys[row * per_row + i] = key
            start += warps * 32
        if lists:
            keys[row * per_row + warp * 32 + lane] = kept

    return keys_of_rows


def make_sort(chunk: int) -> Any:
    """Sort chunks of keys in shared memory, descending; write the first ``keep`` of each.

    A block of chunk / 2 threads takes one chunk; blockIdx.y is the row.
    """
    threads = chunk // 2

    def sort_chunks(keys, best, m, keep):
        shared = cuda.shared.array(chunk, types.int64)
        thread = cuda.threadIdx.x
        row = np.int64(cuda.blockIdx.y)
        first = np.int64(cuda.blockIdx.x) * chunk
        for half in range(2):
            i = thread + half * threads
            if first + i < m:
                shared[i] = keys[row * m + first + i]
            else:
                shared[i] = NOBODY
        cuda.syncthreads()
        size = 2
        while size <= chunk:
            step = size >> 1
            while step > 0:
                low = 2 * thread - (thread & (step - 1))
                high = low + step
                a = shared[low]
                b = shared[high]
                if (a < b) == ((low & size) == 0):
                    shared[low] = b
                    shared[high] = a
                cuda.syncthreads()
                step >>= 1
            size <<= 1
        place = thread
        while place < keep:
            spot = row * np.int64(cuda.gridDim.x) * keep + np.int64(cuda.blockIdx.x) * keep + place
            best[spot] = shared[place]
            place += threads

    return sort_chunks


def lanes_per_row(kind: Kind, d: int) -> int:
    """How many lanes read one item together, or 1 where its rows do not fit 16-byte loads."""
    pieces, rest = divmod(d, PIECE[kind])
    fits = rest == 0 and pieces in (1, 2, 4, 8, 16, 32)
    return pieces if fits else 0


@cuda.jit(device=True, inline="always")
def _unset(bits, i):
    """Whether item i is filtered out."""
    return ((bits[i >> 5] >> np.uint32(i & 31)) & np.uint32(1)) == 0


@cuda.jit(device=True, inline="always")
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


def _make_sum_of_pieces(kind, d):
    """A lane's share of an item's product: its 16-byte piece of the row."""
    halves = kind == "float16"
    row_bytes = d * 16 // PIECE[kind]
    per_word = PIECE[kind] // 4

    @cuda.jit(device=True, inline="always")
    def of_bytes(items, queries, i, query, part):
        a = load16(items, i * row_bytes + part * 16)
        q = load16(queries, query * d + part * 16)
        dot = np.int32(0)
        for w in range(4):
            dot = dp4a(a[w], q[w], dot)
        return dot

    @cuda.jit(device=True, inline="always")
    def of_floats(items, queries, i, query, part):
        a = load16(items, i * row_bytes + part * 16)
        at = query * d + part * (4 * per_word)
        total = np.float32(0.0)
        for w in range(4):
            for j in range(per_word):
                value = half_to_float(a[w], j) if halves else word_to_float(a[w])
                total += value * queries[at + w * per_word + j]
        return total

    return of_bytes if kind == "int8" else of_floats


def _make_sum_of_columns(kind, d):
    """An item's whole product by one lane, for rows that do not fit 16-byte loads."""
    halves = kind == "float16"

    @cuda.jit(device=True, inline="always")
    def of_bytes(items, queries, i, query, part):
        dot = np.int32(0)
        for c in range(d):
            dot += np.int32(items[i * d + c]) * np.int32(queries[query * d + c])
        return dot

    @cuda.jit(device=True, inline="always")
    def of_floats(items, queries, i, query, part):
        total = np.float32(0.0)
        for c in range(d):
            entry = items[i * d + c]
            value = short_to_float(entry) if halves else np.float32(entry)
            total += value * queries[query * d + c]
        return total

    return of_bytes if kind == "int8" else of_floats


def _make_rate(kind, *, biased, filtered, excluding, boosted):
    """The key of item i with a finished product: scaled, boosted, and only where allowed."""
    quantised = kind == "int8"

    @cuda.jit(device=True, inline="always")
    def rate(
        total, i, query, scales, biases, query_scales, query_sums, bits, excluded, offsets, boost
    ):
        score = np.float32(total)
        if quantised:
            score = product(score, scales[i])
            if biased:
                score = score + product(query_sums[query], biases[i])
            score = product(score, query_scales[query])
        if boosted:
            score = score + boost[i]
        allowed = score == score
        if filtered and allowed:
            allowed = not _unset(bits, i)
        if excluding and allowed:
            allowed = not _listed(excluded, offsets[query], offsets[query + 1], i)
        return pack(score, i) if allowed else np.int64(NOBODY)

    return rate


def make_dot(
    kind: Kind, d: int, *, keep: Keep, biased: bool, filtered: bool, excluding: bool,
    boosted: bool, pieces: bool,
) -> Any:  # fmt: skip
    """Score items against query blockIdx.y as they are read; keep the warps' lists of keys."""
    lanes = lanes_per_row(kind, d) if pieces else 1
    at_once = 32 // lanes
    lists = keep == "list"
    nothing = np.int32(0) if kind == "int8" else np.float32(0.0)
    sum_up = (_make_sum_of_pieces if pieces else _make_sum_of_columns)(kind, d)
    rate = _make_rate(
        kind, biased=biased, filtered=filtered, excluding=excluding, boosted=boosted
    )  # fmt: skip

    def retrieve(
        items, scales, biases, queries, query_scales, query_sums, bits, excluded, offsets, boost,
        keys, n, per_query,
    ):  # fmt: skip
        lane = cuda.threadIdx.x & 31
        part = lane % lanes
        warp = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5)
        warps = np.int64(cuda.gridDim.x) * (cuda.blockDim.x >> 5)
        query = np.int64(cuda.blockIdx.y)
        kept = np.int64(NOBODY)
        start = warp * at_once
        while start < n:
            i = start + lane // lanes
            total = nothing
            if i < n:
                total = sum_up(items, queries, i, query, part)
            step = lanes >> 1
            while step > 0:
                total += cuda.shfl_xor_sync(ALL, total, step)
                step >>= 1
            key = np.int64(NOBODY)
            if i < n and part == 0:
                key = rate(
                    total, i, query, scales, biases, query_scales, query_sums, bits, excluded,
                    offsets, boost,
                )  # fmt: skip
                if not lists:
                    keys[query * per_query + i] = key
            if lists:
                kept = insert(kept, key, lane)
            start += warps * at_once
        if lists:
            keys[query * per_query + warp * 32 + lane] = kept

    return retrieve
