"""Kernels over embedding rows: one thread takes one 16-byte piece of one output row.

Neighbouring threads read neighbouring pieces, so a row arrives in whole 32-byte sectors. Rows
whose bytes are no multiple of 16 (or whose base is not aligned) take one thread a column.
An id outside the table is never dereferenced: it adds nothing, like a pruned row.
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


def bag_signature(kind: Kind) -> Any:
    """table, scales, biases, ids, offsets, weights, out; rows, bags."""
    floats, longs = types.CPointer(types.float32), types.CPointer(types.int64)
    return types.void(
        types.CPointer(ENTRIES[kind]), floats, floats, longs, longs, floats, floats,
        types.int64, types.int64, types.int64,
    )  # fmt: skip


def make_bag(kind: Kind, d: int, *, mean: bool, weighted: bool, biased: bool, pieces: bool) -> Any:
    """The bag kernel for a table kind, width and pooling; ``pieces`` reads 16 bytes at once."""
    return (
        _bag_pieces(kind, d, mean, weighted, biased)
        if pieces
        else _bag_columns(kind, d, mean, weighted, biased)
    )


def _make_add(kind):
    """Adds a 16-byte piece, times a scale, to the totals of its columns."""
    quarter = PIECE[kind] // 4

    @cuda.jit(device=True, inline="always")
    def add_bytes(total, words, scale):
        for w in range(4):
            for j in range(quarter):
                total[w * quarter + j] += scale * byte_to_float(words[w], j)

    @cuda.jit(device=True, inline="always")
    def add_halves(total, words, scale):
        for w in range(4):
            for j in range(quarter):
                total[w * quarter + j] += scale * half_to_float(words[w], j)

    @cuda.jit(device=True, inline="always")
    def add_words(total, words, scale):
        for w in range(4):
            total[w] += scale * word_to_float(words[w])

    return {"int8": add_bytes, "float16": add_halves, "float32": add_words}[kind]


@cuda.jit(device=True, inline="always")
def _share(count, mean):
    """What a bag's sum is multiplied by."""
    share = np.float32(1.0)
    if mean and count > 1:
        share = np.float32(1.0) / np.float32(count)
    return share


def _bag_pieces(kind, d, mean, weighted, biased):
    size = PIECE[kind]
    per_row = d // size
    quantised = kind == "int8"
    row_bytes = d * 16 // size
    quarter = size // 4
    add = _make_add(kind)

    def bag(table, scales, biases, ids, offsets, weights, out, rows, bags, padding):
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
        for p in range(offsets[b], offsets[b + 1]):
            row = ids[p]
            if row == padding:
                continue
            count += np.int32(1)
            if row < 0 or row >= rows:
                continue
            scale = np.float32(1.0)
            if weighted:
                scale = weights[p]
            if biased:
                bias += scale * biases[row]
            if quantised:
                scale = scale * scales[row]
            add(total, load16(table, row * row_bytes + piece * 16), scale)
        share = _share(count, mean)
        for w in range(quarter):
            place = (b * d + piece * size + w * 4) * 4
            store16(
                out, place,
                (total[w * 4] + bias) * share, (total[w * 4 + 1] + bias) * share,
                (total[w * 4 + 2] + bias) * share, (total[w * 4 + 3] + bias) * share,
            )  # fmt: skip

    return bag


def _bag_columns(kind, d, mean, weighted, biased):
    quantised, halves = kind == "int8", kind == "float16"

    def bag(table, scales, biases, ids, offsets, weights, out, rows, bags, padding):
        thread = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        b = thread // d
        column = thread % d
        if b >= bags:
            return
        total = np.float32(0.0)
        count = np.int32(0)
        for p in range(offsets[b], offsets[b + 1]):
            row = ids[p]
            if row == padding:
                continue
            count += np.int32(1)
            if row < 0 or row >= rows:
                continue
            entry = table[row * d + column]
            value = short_to_float(entry) if halves else np.float32(entry)
            if quantised:
                value = value * scales[row]
            if biased:
                value = value + biases[row]
            if weighted:
                value = value * weights[p]
            total += value
        out[b * d + column] = total * _share(count, mean)

    return bag
