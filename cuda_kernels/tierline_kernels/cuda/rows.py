"""Kernels over embedding rows: one thread takes one 16-byte piece of one output row.

Neighbouring threads read neighbouring pieces, so a row arrives in whole 32-byte sectors, and a
thread asks for four rows before it uses the first. Rows whose bytes are no multiple of 16 (or whose
base is not aligned) take one thread a column. An id outside the table is never dereferenced: it
adds nothing, like a pruned row. A table has at least one row.
"""

# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numba import types

from tierline_kernels.cuda.intrinsics import (
    byte_to_float,
    cuda,
    half_to_float,
    inlined,
    load16,
    short_to_float,
    store16,
    word_to_float,
)

Kind = Literal["float32", "float16", "int8"]
ENTRIES: dict[Kind, Any] = {
    "float32": types.float32,
    "float16": types.uint16,
    "int8": types.int8,
}
# Values in 16 bytes.
PIECE: dict[Kind, int] = {"float32": 4, "float16": 8, "int8": 16}
# What a launch asks of a kernel: bits of its last argument.
MEAN, WEIGHTED, BIASED, LOOKUP = 1, 2, 4, 8
AT_ONCE = 4

_floats, _longs = types.CPointer(types.float32), types.CPointer(types.int64)
CHECK_SIGNATURE = types.void(_longs, _longs, types.int64, types.int64)


def bag_signature(kind: Kind) -> Any:
    """table, scales, biases, ids, offsets, weights, out; rows, bags, padding, width, flags."""
    return types.void(
        types.CPointer(ENTRIES[kind]), _floats, _floats, _longs, _longs, _floats, _floats,
        types.int64, types.int64, types.int64, types.int64, types.int64,
    )  # fmt: skip


def _make_add(kind):
    """Adds a 16-byte piece, times a scale, to the totals of its columns; ``keep`` 0 blanks it."""
    quarter = PIECE[kind] // 4

    @inlined
    def add_bytes(total, words, keep, scale):
        for w in range(4):
            for j in range(quarter):
                total[w * quarter + j] += scale * byte_to_float(words[w], j)

    @inlined
    def add_halves(total, words, keep, scale):
        for w in range(4):
            for j in range(quarter):
                total[w * quarter + j] += scale * half_to_float(words[w] & keep, j)

    @inlined
    def add_words(total, words, keep, scale):
        for w in range(4):
            total[w] += scale * word_to_float(words[w] & keep)

    return {"int8": add_bytes, "float16": add_halves, "float32": add_words}[kind]


@inlined
def _share(count, flags):
    """What a bag's sum is multiplied by."""
    share = np.float32(1.0)
    if (flags & MEAN) != 0 and count > 1:
        share = np.float32(1.0) / np.float32(count)
    return share


@inlined
def _bounds(offsets, b, flags):
    """Where bag b begins and ends; a look-up is a bag of one id."""
    low = b
    high = b + 1
    if (flags & LOOKUP) == 0:
        low = offsets[b]
        high = offsets[b + 1]
    return low, high


def make_bag(kind: Kind, d: int) -> Any:
    """The bag kernel of a table kind and width that reads 16 bytes at once."""
    size = PIECE[kind]
    per_row, row_bytes, quarter = d // size, d * 16 // size, size // 4
    quantised = kind == "int8"
    add = _make_add(kind)

    def bag(table, scales, biases, ids, offsets, weights, out, rows, bags, padding, width, flags):
        thread = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        b = thread // per_row
        piece = thread % per_row
        if b >= bags:
            return
        total = cuda.local.array(size, types.float32)
        for j in range(size):
            total[j] = np.float32(0.0)
        bias = np.float32(0.0)
        count = np.int32(0)
        low, high = _bounds(offsets, b, flags)
        for first in range(low, high, AT_ONCE):
            for u in range(AT_ONCE):
                p = min(first + u, high - 1)
                row = ids[p]
                counts = first + u < high and row != padding
                if counts:
                    count += np.int32(1)
                keep = np.int32(-1)
                scale = np.float32(1.0)
                if not counts or row < 0 or row >= rows:
                    row = np.int64(0)
                    keep = np.int32(0)
                    scale = np.float32(0.0)
                elif (flags & WEIGHTED) != 0:
                    scale = weights[p]
                if (flags & BIASED) != 0 and keep != 0:
                    bias += scale * biases[row]
                if quantised and keep != 0:
                    scale = scale * scales[row]
                add(total, load16(table, row * row_bytes + piece * 16), keep, scale)
        share = _share(count, flags)
        for w in range(quarter):
            store16(
                out, (b * d + piece * size + w * 4) * 4,
                (total[w * 4] + bias) * share, (total[w * 4 + 1] + bias) * share,
                (total[w * 4 + 2] + bias) * share, (total[w * 4 + 3] + bias) * share,
            )  # fmt: skip

    return bag


def make_bag_columns(kind: Kind) -> Any:
    """The bag kernel for any width and alignment: one thread a column."""
    quantised, halves = kind == "int8", kind == "float16"

    def bag(table, scales, biases, ids, offsets, weights, out, rows, bags, padding, width, flags):
        thread = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        b = thread // width
        column = thread % width
        if b >= bags:
            return
        total = np.float32(0.0)
        count = np.int32(0)
        low, high = _bounds(offsets, b, flags)
        for p in range(low, high):
            row = ids[p]
            if row == padding:
                continue
            count += np.int32(1)
            if row < 0 or row >= rows:
                continue
            entry = table[row * width + column]
            value = short_to_float(entry) if halves else np.float32(entry)
            if quantised:
                value = value * scales[row]
            if (flags & BIASED) != 0:
                value = value + biases[row]
            if (flags & WEIGHTED) != 0:
                value = value * weights[p]
            total += value
        out[b * width + column] = total * _share(count, flags)

    return bag


def make_check() -> Any:
    """Find ids outside a table: found[0] becomes the place after one of them, or stays 0."""

    def check(ids, found, count, rows):
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        # Which one is told is up to the hardware: every writer is right.
        if i < count and (ids[i] < -1 or ids[i] >= rows):
            found[0] = i + 1

    return check
