"""Kernels that keep the k best: sorted lists across a warp's lanes, merged by a block's sort.

A candidate is one int64: the score's bits made to sort as integers above the complement of its
index. Keys are unique and totally ordered, so results do not depend on grid or block sizes. A warp
keeps 32 of them; for a larger k the answer is exact when every full list ends below it, which
``make_certify`` tells, and almost always so, since warps take a row's tiles in turn.
"""

# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from tierline_kernels.cuda.intrinsics import cuda, float_to_word, inlined, load16, word_to_float

# A warp keeps one candidate a lane.
LANES = 32
NOBODY = -(2**63)
NAN_LAST, NAN_FIRST = -(2**31) + 1, 2**31 - 1
ALL = 0xFFFFFFFF
# What a launch asks of a kernel: bits of its last argument.
MASKED, SMALLEST, NAN_AHEAD = 1, 2, 4

_floats, _longs = types.CPointer(types.float32), types.CPointer(types.int64)
_bytes, _ints = types.CPointer(types.uint8), types.CPointer(types.int32)

KEYS_SIGNATURE = types.void(_floats, _bytes, _longs, _longs, *[types.int64] * 5)
SORT_SIGNATURE = types.void(_longs, _longs, types.int64, types.int64)
EMIT_SIGNATURE = types.void(_longs, _floats, _longs, types.int64, types.int64)
CERTIFY_SIGNATURE = types.void(_longs, _longs, _ints, *[types.int64] * 3)


@inlined
def pack(value, index):
    """The key of a number: larger for larger numbers, then for lower indices."""
    word = np.int64(float_to_word(value + np.float32(0.0)))  # adding 0 makes -0 into +0
    if word < 0:
        word = word ^ np.int64(0x7FFFFFFF)
    return (word << np.int64(32)) | (np.int64(0xFFFFFFFF) - np.int64(index))


@inlined
def value_of(key):
    """The number a key stands for; NaN for a NaN's key and for NOBODY, which every number beats."""
    word = key >> np.int64(32)
    if word < 0:
        word = word ^ np.int64(0x7FFFFFFF)
    return word_to_float(np.int32(word))


@inlined
def put(kept, key, lane):
    """One key, the same in every lane, into the warp's descending list."""
    place = cuda.popc(cuda.ballot_sync(ALL, kept > key))
    above = cuda.shfl_up_sync(ALL, kept, 1)
    if lane == place:
        kept = key
    elif lane > place:
        kept = above
    return kept


@inlined
def insert(kept, offered, lane, last):
    """Offer each lane's key to the warp's list; lane ``last`` holds the one to beat."""
    bar = cuda.shfl_sync(ALL, kept, last)
    waiting = cuda.ballot_sync(ALL, offered > bar)
    while waiting != 0:
        source = cuda.ffs(waiting) - 1
        waiting = waiting & (waiting - 1)
        kept = put(kept, cuda.shfl_sync(ALL, offered, source), lane)
    return kept


@inlined
def _key_of(value, i, flags):
    """The key of a row's entry, NaN by its policy; ``value`` has its sign for the direction."""
    if value == value:
        key = pack(value, i)
    else:
        code = np.int64(NAN_FIRST) if (flags & NAN_AHEAD) != 0 else np.int64(NAN_LAST)
        key = (code << np.int64(32)) | (np.int64(0xFFFFFFFF) - np.int64(i))
    return key


@inlined
def _masked_key(value, i, wanted, mask, place, flags):
    """The key of an entry that is wanted and not masked away, else NOBODY."""
    key = np.int64(NOBODY)
    if wanted and ((flags & MASKED) == 0 or mask[place] != 0):
        key = _key_of(value, i, flags)
    return key


@inlined
def _sign(flags):
    return np.float32(-1.0) if (flags & SMALLEST) != 0 else np.float32(1.0)


def make_keys(per: int) -> Any:
    """The warps' lists of each row of numbers; ``per`` is 4 for 16-byte loads, else 1.

    An entry is compared as a float first. Within a warp indices rise, so one that equals the
    list's last number loses; a NaN on either side passes on to the comparison of keys.
    """
    tile = 32 * per

    def keys_of_rows(x, mask, lengths, keys, n, mask_stride, per_row, last, flags):
        lane = cuda.threadIdx.x & 31
        warp = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5)
        warps = np.int64(cuda.gridDim.x) * (cuda.blockDim.x >> 5)
        row = np.int64(cuda.blockIdx.y)
        length = lengths[row]
        sign = _sign(flags)
        kept = np.int64(NOBODY)
        bar = value_of(kept)
        values = cuda.local.array(per, types.float32)
        start = warp * tile
        while start < n:
            i = start + lane * per
            at = min(i, n - per)  # past the end a lane reads the last piece and wants none of it
            if per == 4:
                words = load16(x, (row * n + at) * 4)
                for j in range(per):
                    values[j] = word_to_float(words[j]) * sign
            else:
                values[0] = x[row * n + at] * sign
            passes = False
            for j in range(per):
                if i + j < length and not values[j] <= bar:
                    passes = True
            if cuda.ballot_sync(ALL, passes) != 0:
                for j in range(per):
                    place = row * mask_stride + at + j
                    key = _masked_key(values[j], i + j, i + j < length, mask, place, flags)
                    kept = insert(kept, key, lane, last)
                bar = value_of(cuda.shfl_sync(ALL, kept, last))
            start += warps * tile
        keys[row * per_row + warp * 32 + lane] = kept

    return keys_of_rows


def make_all_keys() -> Any:
    """The key of every entry of each row: the exact way for rows whose lists were not enough."""

    def all_keys(x, mask, lengths, keys, n, mask_stride, per_row, last, flags):
        row = np.int64(cuda.blockIdx.y)
        sign = _sign(flags)
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        while i < n:
            value = x[row * n + i] * sign
            place = row * mask_stride + i
            keys[row * per_row + i] = _masked_key(value, i, i < lengths[row], mask, place, flags)
            i += np.int64(cuda.gridDim.x) * cuda.blockDim.x

    return all_keys


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


def make_emit() -> Any:
    """Turn the best keys into values and indices; a place nobody took holds ∓inf and -1."""

    def emit(best, values, indices, count, flags):
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            key = best[i]
            sign = _sign(flags)
            if key == np.int64(NOBODY):
                indices[i] = np.int64(-1)
                values[i] = sign * np.float32(-np.inf)
            else:
                indices[i] = np.int64(0xFFFFFFFF) - (key & np.int64(0xFFFFFFFF))
                values[i] = sign * value_of(key)

    return emit


def make_certify() -> Any:
    """Row blockIdx.x is exact where no full list ends above the k-th key; certified gets 1 or 0."""

    def certify(keys, best, certified, per_row, lists, k):
        row = np.int64(cuda.blockIdx.x)
        bar = best[row * k + k - 1]
        doubt = np.int32(0)
        i = np.int64(cuda.threadIdx.x)
        while i < lists:
            end = keys[row * per_row + i * 32 + 31]
            if end != np.int64(NOBODY) and end > bar:
                doubt = np.int32(1)
            i += cuda.blockDim.x
        doubted = cuda.syncthreads_or(doubt)
        if cuda.threadIdx.x == 0:
            certified[row] = np.int32(1) if doubted == 0 else np.int32(0)

    return certify
