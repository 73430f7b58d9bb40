"""Compiled loops over embedding rows: look-up and bags, for a range of outputs each."""

# Numba infers the types of the loops from their arguments, so they carry none themselves.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
# Called from a loop, an intrinsic lacks the typing context its definition takes.
# mypy: disable-error-code="call-arg"
from __future__ import annotations

from importlib import import_module
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from tierline_kernels.jit import compiled, inlined

ir: Any = import_module("llvmlite.ir")
make_array: Any = import_module("numba.np.arrayobj").make_array

# Rows asked for this many ids ahead arrive in time; farther ahead they push others out again.
AHEAD = 16
LINE = 64  # bytes of a cache line


def number(x):
    """float32 of a table entry; float16 arrives as its bits (uint16), which Numba can load."""
    raise NotImplementedError  # only compiled loops call it


@overload(number)
def _number(x):  # pragma: no cover - compiled
    if x == numba.types.uint16:

        def half(x):
            bits = np.uint32(x)
            # Exponent and fraction moved into float32's places, then rebased from 15 to 127.
            moved = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
            rebase = np.float32(2.0**112)
            if (bits & np.uint32(0x7C00)) == np.uint32(0x7C00):  # infinity or NaN
                moved = np.uint32(moved | np.uint32(0x7F800000))
                rebase = np.float32(1.0)
            sign = np.float32(1.0) - np.float32(2.0) * np.float32(bits >> np.uint32(15))
            return np.uint32(moved).view(np.float32) * (sign * rebase)

        return half

    return lambda x: np.float32(x)


@intrinsic
def _prefetch(typing, array, offset):
    """Ask for the cache line at a byte offset of an array; never faults."""

    def generate(context, builder, signature, args):
        raw, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = make_array(signature.args[0])(context, builder, value=args[0]).data
        place = builder.gep(builder.bitcast(data, raw), [args[1]])
        kind = ir.FunctionType(ir.VoidType(), [raw, word, word, word])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(ask, [place, word(0), word(3), word(1)])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@inlined
def _prefetch_row(table, row, row_bytes):
    for line in range(0, row_bytes, LINE):
        _prefetch(table, row * row_bytes + line)


@compiled
def lookup_float(table, ids, out, low, high):
    for i in range(low, high):
        row = ids[i]
        if row < 0:
            out[i, :] = np.float32(0.0)
        else:
            for d in range(out.shape[1]):
                out[i, d] = number(table[row, d])


@compiled
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


@compiled
def bag_float(table, ids, offsets, weights, mean, padding, out, low, high):
    """Rows are asked for ahead of their turn: their cache misses overlap the additions."""
    row_bytes = table.shape[1] * table.itemsize
    weighted = weights.shape[0] > 0
    last = offsets[high]
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        for p in range(offsets[b], offsets[b + 1]):
            if p + AHEAD < last and ids[p + AHEAD] >= 0:
                _prefetch_row(table, ids[p + AHEAD], row_bytes)
            row = ids[p]
            if row == padding:
                continue
            count += 1
            if row < 0:
                continue
            if weighted:
                weight = weights[p]
                for d in range(total.shape[0]):
                    total[d] += weight * number(table[row, d])
            else:
                for d in range(total.shape[0]):
                    total[d] += number(table[row, d])
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
            for d in range(total.shape[0]):
                total[d] *= share


@compiled
def _int8_entry(ids, p, end, scales, biases, weights, padding):
    """Row, scale, bias and count of place p; a row left out is row 0 times 0."""
    if p >= end or ids[p] == padding:
        return np.int64(0), np.float32(0.0), np.float32(0.0), 0
    row = ids[p]
    if row < 0:
        return np.int64(0), np.float32(0.0), np.float32(0.0), 1
    weight = weights[p] if weights.shape[0] else np.float32(1.0)
    bias = weight * biases[row] if biases.shape[0] else np.float32(0.0)
    return row, weight * scales[row], bias, 1


@compiled
def bag_int8(codes, scales, biases, ids, offsets, weights, mean, padding, out, low, high):
    """Four rows at a time, so that a total is loaded and stored once for the four; rows are asked
    for ahead of their turn. Biases do not depend on the column: they are added up once a bag."""
    row_bytes = codes.shape[1]
    last = offsets[high]
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        bias = np.float32(0.0)
        end = offsets[b + 1] if codes.shape[0] else offsets[b]
        for p in range(offsets[b], end, 4):
            for q in range(p + AHEAD, min(p + AHEAD + 4, last)):
                if ids[q] >= 0:
                    _prefetch_row(codes, ids[q], row_bytes)
                    _prefetch(scales, ids[q] * 4)
                    if biases.shape[0]:
                        _prefetch(biases, ids[q] * 4)
            r0, s0, b0, n0 = _int8_entry(ids, p, end, scales, biases, weights, padding)
            r1, s1, b1, n1 = _int8_entry(ids, p + 1, end, scales, biases, weights, padding)
            r2, s2, b2, n2 = _int8_entry(ids, p + 2, end, scales, biases, weights, padding)
            r3, s3, b3, n3 = _int8_entry(ids, p + 3, end, scales, biases, weights, padding)
            count += n0 + n1 + n2 + n3
            bias += (b0 + b1) + (b2 + b3)
            for d in range(total.shape[0]):
                total[d] += (s0 * np.float32(codes[r0, d]) + s1 * np.float32(codes[r1, d])) + (
                    s2 * np.float32(codes[r2, d]) + s3 * np.float32(codes[r3, d])
                )
        share = np.float32(1.0)
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
        for d in range(total.shape[0]):
            total[d] = (total[d] + bias) * share
