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
FLOATS_AHEAD = 16
CODES_AHEAD = 6
LINE = 64  # bytes of a cache line
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


def _ask(builder, place, level=1):
    """Ask for the cache line at a pointer, into the cache of a level; never faults."""
    raw, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [raw, word, word, word])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [place, word(0), word(4 - level), word(1)])  # to read, data


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
            if p + FLOATS_AHEAD < last and ids[p + FLOATS_AHEAD] >= 0:
                _prefetch_row(table, ids[p + FLOATS_AHEAD], row_bytes)
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


class _Rows:
    """The arrays of a bag of int8 rows inside an intrinsic, and what is done with one row."""

    def __init__(self, context, builder, signature, args):
        self.builder = builder
        self._raw = ir.IntType(8).as_pointer()
        arrays = [
            make_array(signature.args[at])(context, builder, value=args[at]) for at in range(6)
        ]
        self.width = builder.extract_value(arrays[0].shape, 1)
        self.codes = builder.bitcast(arrays[0].data, self._raw)
        self.scales, self.biases, self.ids, self.weights, self.out = (a.data for a in arrays[1:])
        zero = ir.IntType(64)(0)
        sizes = [builder.extract_value(arrays[at].shape, 0) for at in (2, 4)]
        self.biased, self.weighted = (builder.icmp_signed(">", size, zero) for size in sizes)

    def ask(self, place, column, columns):
        """Ask for some columns of the row CODES_AHEAD of a place among the ids, and for the scale
        and bias of the one twice as far ahead. Into the second-level cache: the first has few
        places for lines that are on their way."""
        builder, word = self.builder, ir.IntType(64)
        row = builder.load(builder.gep(self.ids, [builder.add(place, word(CODES_AHEAD))]))
        first = builder.add(builder.mul(row, self.width), column)
        for line in range(0, columns, LINE):
            _ask(builder, builder.gep(self.codes, [builder.add(first, word(line))]), 2)
        row = builder.load(builder.gep(self.ids, [builder.add(place, word(2 * CODES_AHEAD))]))
        _ask(builder, builder.bitcast(builder.gep(self.scales, [row]), self._raw), 2)
        with builder.if_then(self.biased):
            _ask(builder, builder.bitcast(builder.gep(self.biases, [row]), self._raw), 2)

    def factor(self, place, row, bias):
        """The row's scale times its weight; its bias times its weight is added to ``bias``."""
        builder = self.builder
        weight = cgutils.alloca_once_value(builder, ir.FloatType()(1.0))
        builder.store(ir.FloatType()(1.0), weight)
        with builder.if_then(self.weighted):
            builder.store(builder.load(builder.gep(self.weights, [place])), weight)
        with builder.if_then(self.biased):
            shift = builder.load(builder.gep(self.biases, [row]))
            more = builder.fmul(builder.load(weight), shift)
            builder.store(builder.fadd(builder.load(bias), more), bias)
        return builder.fmul(builder.load(weight), builder.load(builder.gep(self.scales, [row])))


def _adder(columns):
    """The intrinsic that adds up ``columns`` columns of a bag of int8 rows."""

    @intrinsic
    def _add_codes(
        typing, codes, scales, biases, ids, weights, out, padding, low, high, last, column, place
    ):
        """out[place + d] = sum of weight * scale * codes[row, column + d] over rows ids[low:high],
        d < columns; answers how many rows count and the sum of weight * bias. Vectors by hand: the
        sums stay in registers over all rows. Rows are asked for ahead, up to the id at ``last``."""

        def generate(context, builder, signature, args):
            word, wide = ir.IntType(64), ir.VectorType(ir.FloatType(), 16)
            rows = _Rows(context, builder, signature, args)
            padding, low, high, last, column, place = args[6:]
            zero = ir.Constant(wide, [0.0] * 16)
            totals = [cgutils.alloca_once(builder, wide) for _ in range(0, columns, 16)]
            count = cgutils.alloca_once(builder, word)
            bias = cgutils.alloca_once(builder, ir.FloatType())
            for cell, start in ((count, word(0)), (bias, ir.FloatType()(0.0))):
                builder.store(start, cell)
            for total in totals:
                builder.store(zero, total)
            with cgutils.for_range_slice(builder, low, high, word(1), word) as (at, _):
                farthest = builder.add(at, word(2 * CODES_AHEAD))
                with cgutils.if_likely(builder, builder.icmp_signed("<", farthest, last)):
                    rows.ask(at, column, columns)
                row = builder.load(builder.gep(rows.ids, [at]))
                with cgutils.if_likely(builder, builder.icmp_signed("!=", row, padding)):
                    builder.store(builder.add(builder.load(count), word(1)), count)
                    with cgutils.if_likely(builder, builder.icmp_signed(">=", row, word(0))):
                        factor = rows.factor(at, row, bias)
                        first = builder.add(builder.mul(row, rows.width), column)
                        _add_row(builder, builder.gep(rows.codes, [first]), factor, totals)
            for u, total in enumerate(totals):
                spot = builder.gep(rows.out, [builder.add(place, word(16 * u))])
                spot = builder.bitcast(spot, wide.as_pointer())
                builder.store(builder.load(total), spot, align=4)
            answer = [builder.load(count), builder.load(bias)]
            return context.make_tuple(builder, signature.return_type, answer)

        long = types.int64
        answer = types.Tuple((long, types.float32))
        arrays = (codes, scales, biases, ids, weights, out)
        return answer(*arrays, long, long, long, long, long, long), generate

    return _add_codes


_add_many, _add_some = (_adder(columns) for columns in BLOCKS)


@compiled
def _add_tail(codes, scales, biases, ids, weights, padding, low, high, last, column, total):
    """As the intrinsics, for the columns from ``column`` on, fewer than a block."""
    bias = np.float32(0.0)
    count = 0
    for p in range(low, high):
        if p + FLOATS_AHEAD < last:
            _prefetch(codes, ids[p + FLOATS_AHEAD] * codes.shape[1] + column)
            _prefetch(scales, ids[p + FLOATS_AHEAD] * 4)
            if biases.shape[0]:
                _prefetch(biases, ids[p + FLOATS_AHEAD] * 4)
        row = ids[p]
        if row == padding:
            continue
        count += 1
        if row < 0:
            continue
        weight = weights[p] if weights.shape[0] else np.float32(1.0)
        if biases.shape[0]:
            bias += weight * biases[row]
        factor = weight * scales[row]
        for d in range(column, total.shape[0]):
            total[d] += factor * np.float32(codes[row, d])
    return count, bias


@compiled
def bag_int8(codes, scales, biases, ids, offsets, weights, mean, padding, out, low, high):
    """Rows are added up in blocks of columns, the next ones asked for meanwhile. Biases do not
    depend on the column: they are added up once a bag."""
    width = codes.shape[1]
    many = width // BLOCKS[0] * BLOCKS[0] if _wide_registers() else 0
    blocked = width // BLOCKS[1] * BLOCKS[1]
    flat = out.reshape(out.size)
    last = offsets[high]
    for b in range(low, high):
        total = out[b]
        count = 0
        bias = np.float32(0.0)
        start, stop = offsets[b], offsets[b + 1]
        for column in range(0, many, BLOCKS[0]):
            count, bias = _add_many(
                codes, scales, biases, ids, weights, flat, padding, start, stop, last, column,
                b * width + column,
            )  # fmt: skip
        for column in range(many, blocked, BLOCKS[1]):
            count, bias = _add_some(
                codes, scales, biases, ids, weights, flat, padding, start, stop, last, column,
                b * width + column,
            )  # fmt: skip
        if blocked < width:
            total[blocked:] = np.float32(0.0)
            count, bias = _add_tail(
                codes, scales, biases, ids, weights, padding, start, stop, last, blocked, total
            )
        share = np.float32(1.0)
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
        if biases.shape[0] or share != np.float32(1.0):
            for d in range(width):
                total[d] = (total[d] + bias) * share
