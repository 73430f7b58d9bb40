"""Compiled loops over embedding rows: look-up and bags, for a range of outputs each."""

# Numba infers the types of the loops from their arguments, so they carry none themselves.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
# Called from a loop, an intrinsic lacks the typing context its definition takes.
# mypy: disable-error-code="call-arg,var-annotated"
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
LEVEL = 2  # 3 the first-level cache, 2 the second
LISTED = 32  # rows of a bag that are listed at a time
BLOCKS = (128, 64)  # columns whose totals fit the registers, where these have 64 bytes or 32


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


def _ask(builder, place):
    """Ask for the cache line at a pointer, into the second-level cache: the first has few places
    for lines that are on their way. Never faults."""
    raw, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [raw, word, word, word])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [place, word(0), word(LEVEL), word(1)])  # to read, data


@intrinsic
def _prefetch(typing, array, offset):
    """Ask for the cache line at a byte offset of an array; never faults."""

    def generate(context, builder, signature, args):
        raw = ir.IntType(8).as_pointer()
        data = make_array(signature.args[0])(context, builder, value=args[0]).data
        _ask(builder, builder.gep(builder.bitcast(data, raw), [args[1]]))
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


def _add_row(builder, codes, factor, totals):
    """Add factor times the next 16 codes to each total, a vector of 16 floats."""
    word, wide = ir.IntType(64), ir.VectorType(ir.FloatType(), 16)
    first = builder.insert_element(ir.Constant(wide, ir.Undefined), factor, word(0))
    same = ir.Constant(ir.VectorType(ir.IntType(32), 16), [0] * 16)
    splat = builder.shuffle_vector(first, first, same)
    fused = ("contract",)
    for u, total in enumerate(totals):
        kind = ir.VectorType(ir.IntType(8), 16)
        spot = builder.bitcast(builder.gep(codes, [word(16 * u)]), kind.as_pointer())
        values = builder.sitofp(builder.load(spot, align=1), wide)
        step = builder.fmul(splat, values, flags=fused)
        builder.store(builder.fadd(builder.load(total), step, flags=fused), total)


@intrinsic
def _wide_registers(typing):
    """Whether the processor's registers hold 64 bytes."""

    def generate(context, builder, signature, args):
        return ir.IntType(1)("+avx512f" in context.codegen().magic_tuple()[2])

    return types.boolean(), generate


def _adder(columns):
    """The intrinsic that adds up ``columns`` columns of a list of rows."""

    @intrinsic
    def _add_codes(typing, codes, rows, factors, count, column, out, place, ids, ahead, last):
        """Add factors[p] * codes[rows[p], column : column + columns] for p < count to as many
        floats of out from ``place`` on. Vectors by hand: the totals stay in registers over all
        rows. While row p is added, the same columns of row ids[ahead + p] are asked for, if
        ahead + p < last."""

        def generate(context, builder, signature, args):
            word, wide = ir.IntType(64), ir.VectorType(ir.FloatType(), 16)
            raw, number = ir.IntType(8).as_pointer(), ir.FloatType().as_pointer()
            arrays = {
                at: make_array(signature.args[at])(context, builder, value=args[at])
                for at in (0, 1, 2, 5, 7)
            }
            width = builder.extract_value(arrays[0].shape, 1)
            target = builder.bitcast(builder.gep(arrays[5].data, [args[6]]), number)
            spots = [
                builder.bitcast(builder.gep(target, [word(u)]), wide.as_pointer())
                for u in range(0, columns, 16)
            ]
            totals = [cgutils.alloca_once_value(builder, builder.load(s, align=4)) for s in spots]
            codes_at = builder.bitcast(arrays[0].data, raw)
            with cgutils.for_range(builder, args[3]) as loop:
                next_one = builder.add(args[8], loop.index)
                with cgutils.if_likely(builder, builder.icmp_signed("<", next_one, args[9])):
                    wanted = builder.load(builder.gep(arrays[7].data, [next_one]))
                    start = builder.add(builder.mul(wanted, width), args[4])
                    for line in range(0, columns, LINE):
                        _ask(builder, builder.gep(codes_at, [builder.add(start, word(line))]))
                row = builder.load(builder.gep(arrays[1].data, [loop.index]))
                factor = builder.load(builder.gep(arrays[2].data, [loop.index]))
                start = builder.add(builder.mul(row, width), args[4])
                _add_row(builder, builder.gep(codes_at, [start]), factor, totals)
            for spot, total in zip(spots, totals, strict=True):
                builder.store(builder.load(total), spot, align=4)
            return context.get_dummy_value()

        long = types.int64
        return types.void(
            codes, rows, factors, long, long, out, long, ids, long, long
        ), generate  # fmt: skip

    return _add_codes


_add_many, _add_some = (_adder(columns) for columns in BLOCKS)


@compiled
def _prepare(codes, scales, biases, ids, weights, padding, low, high, rows, factors):
    """Rows and factors of places low to high that add something; their bias and how many count."""
    bias = np.float32(0.0)
    count = 0
    used = 0
    for p in range(low, high):
        row = ids[p]
        if row == padding:
            continue
        count += 1
        if row < 0:
            continue
        weight = weights[p] if weights.shape[0] else np.float32(1.0)
        if biases.shape[0]:
            bias += weight * biases[row]
        rows[used] = row
        factors[used] = weight * scales[row]
        used += 1
    return used, count, bias


@compiled
def bag_int8(codes, scales, biases, ids, offsets, weights, mean, padding, out, low, high):
    """Rows of a bag are listed first, and those of the next places asked for meanwhile; then added
    up in blocks of columns. Biases do not depend on the column: they are added up once a bag."""
    width = codes.shape[1]
    many = width // BLOCKS[0] * BLOCKS[0] if _wide_registers() else 0
    blocked = width // BLOCKS[1] * BLOCKS[1]
    flat = out.reshape(out.size)
    rows = np.empty(LISTED, np.int64)
    factors = np.empty(LISTED, np.float32)
    last = offsets[high]
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        bias = np.float32(0.0)
        for first in range(offsets[b], offsets[b + 1], LISTED):
            stop = min(first + LISTED, offsets[b + 1])
            for q in range(stop, min(2 * stop - first, last)):
                if ids[q] >= 0:
                    _prefetch(scales, ids[q] * 4)
                    if biases.shape[0]:
                        _prefetch(biases, ids[q] * 4)
            used, kept, more = _prepare(
                codes, scales, biases, ids, weights, padding, first, stop, rows, factors
            )
            count += kept
            bias += more
            for column in range(0, many, BLOCKS[0]):
                _add_many(
                    codes, rows, factors, used, column, flat, b * width + column, ids, stop, last
                )
            for column in range(many, blocked, BLOCKS[1]):
                _add_some(
                    codes, rows, factors, used, column, flat, b * width + column, ids, stop, last
                )
            for u in range(used):
                row = codes[rows[u]]
                for d in range(blocked, width):
                    total[d] += factors[u] * np.float32(row[d])
        share = np.float32(1.0)
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
        for d in range(total.shape[0]):
            total[d] = (total[d] + bias) * share
