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

from tierline_kernels.jit import compiled

ir: Any = import_module("llvmlite.ir")
make_array: Any = import_module("numba.np.arrayobj").make_array

# Rows are asked for this many ids ahead of their turn: of bytes, and of wider entries.
CODES_AHEAD = 32
FLOATS_AHEAD = 16
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


def _ask(builder, place):
    """Ask for the cache line at a pointer; never faults. Into the second-level cache: the first
    has few places for lines that are on their way."""
    raw, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [raw, word, word, word])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [builder.bitcast(place, raw), word(0), word(2), word(1)])  # to read, data


@intrinsic
def _prefetch(typing, array, offset):
    """Ask for the cache line at a byte offset of an array."""

    def generate(context, builder, signature, args):
        raw = ir.IntType(8).as_pointer()
        data = make_array(signature.args[0])(context, builder, value=args[0]).data
        _ask(builder, builder.gep(builder.bitcast(data, raw), [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@compiled
def lookup_float(table, ids, out, low, high):
    row_bytes = table.shape[1] * table.itemsize
    for i in range(low, high):
        if i + FLOATS_AHEAD < high:
            for line in range(0, row_bytes, LINE):
                _prefetch(table, ids[i + FLOATS_AHEAD] * row_bytes + line)
        row = ids[i]
        if row < 0:
            out[i, :] = np.float32(0.0)
        else:
            for d in range(out.shape[1]):
                out[i, d] = number(table[row, d])


@compiled
def lookup_int8(codes, scales, biases, ids, out, low, high):
    for i in range(low, high):
        if i + CODES_AHEAD < high:
            for line in range(0, codes.shape[1], LINE):
                _prefetch(codes, ids[i + CODES_AHEAD] * codes.shape[1] + line)
            _prefetch(scales, ids[i + CODES_AHEAD] * 4)
        row = ids[i]
        if row < 0:
            out[i, :] = np.float32(0.0)
            continue
        scale = scales[row]
        bias = biases[row] if biases.shape[0] else np.float32(0.0)
        for d in range(out.shape[1]):
            out[i, d] = np.float32(codes[row, d]) * scale + bias


@intrinsic
def _widest(typing, array):
    """The block of columns that this processor adds up in registers; 0 where it has no way to
    read the array's entries as vectors."""

    def generate(context, builder, signature, args):
        features = context.codegen().magic_tuple()[2]
        if signature.args[0].dtype == types.uint16 and "+f16c" not in features:
            return ir.IntType(64)(0)
        return ir.IntType(64)(BLOCKS["+avx512f" not in features])

    return types.int64(array), generate


def _splat(builder, value):
    """The value in each of 16 lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, 16), ir.Undefined)
    lane = builder.insert_element(nothing, value, ir.IntType(32)(0))
    same = ir.Constant(ir.VectorType(ir.IntType(32), 16), [0] * 16)
    return builder.shuffle_vector(lane, lane, same)


def _share(builder, mean, count):
    """What a bag's sum is multiplied with: one part in ``count`` for a mean, else 1."""
    one = ir.FloatType()(1.0)
    several = builder.icmp_signed(">", count, ir.IntType(64)(1))
    part = builder.fdiv(one, builder.sitofp(count, ir.FloatType()))
    return builder.select(builder.and_(mean, several), part, one)


class _Rows:
    """The arrays of a bag inside an intrinsic, and what is done with one row."""

    def __init__(self, context, builder, signature, args):
        self.builder = builder
        arrays = [
            make_array(signature.args[at])(context, builder, value=args[at]) for at in range(6)
        ]
        self._kind = signature.args[0].dtype
        self._bytes = self._kind.bitwidth // 8
        self.ahead = CODES_AHEAD if self._bytes == 1 else FLOATS_AHEAD
        self._width = builder.extract_value(arrays[0].shape, 1)
        self._entries = builder.bitcast(arrays[0].data, ir.IntType(8).as_pointer())
        self._scales, self._biases, self.ids, self._weights, self._out = (
            a.data for a in arrays[1:]
        )
        zero = ir.IntType(64)(0)
        sizes = [builder.extract_value(arrays[at].shape, 0) for at in (1, 2, 4)]
        self._scaled, self._biased, self._weighted = (
            builder.icmp_signed(">", size, zero) for size in sizes
        )

    def _place(self, row, column):
        """The address of a row's entry."""
        builder = self.builder
        entry = builder.add(builder.mul(row, self._width), column)
        return builder.gep(self._entries, [builder.mul(entry, ir.IntType(64)(self._bytes))])

    def ask(self, place, column, columns):
        """Ask for some columns of the row some ids ahead of a place, its scale and its bias."""
        builder, word = self.builder, ir.IntType(64)
        row = builder.load(builder.gep(self.ids, [builder.add(place, word(self.ahead))]))
        first = self._place(row, column)
        for line in range(0, columns * self._bytes, LINE):
            _ask(builder, builder.gep(first, [word(line)]))
        for wanted, array in ((self._scaled, self._scales), (self._biased, self._biases)):
            with builder.if_then(wanted):
                _ask(builder, builder.gep(array, [row]))

    def factor(self, place, row, bias):
        """The row's weight times its scale; its weight times its bias is added to ``bias``."""
        builder, one = self.builder, ir.FloatType()(1.0)
        factor = cgutils.alloca_once(builder, ir.FloatType())
        builder.store(one, factor)
        with builder.if_then(self._weighted):
            builder.store(builder.load(builder.gep(self._weights, [place])), factor)
        with builder.if_then(self._biased):
            shift = builder.load(builder.gep(self._biases, [row]))
            more = builder.fmul(builder.load(factor), shift)
            builder.store(builder.fadd(builder.load(bias), more), bias)
        with builder.if_then(self._scaled):
            scale = builder.load(builder.gep(self._scales, [row]))
            builder.store(builder.fmul(builder.load(factor), scale), factor)
        return builder.load(factor)

    def add(self, row, column, factor, totals):
        """Add factor times the row's next 16 columns to each total."""
        builder, single, word = self.builder, ir.FloatType(), ir.IntType(64)
        first, wide = self._place(row, column), ir.VectorType(single, 16)
        splat = _splat(builder, factor)
        kinds = {types.int8: ir.IntType(8), types.uint16: ir.HalfType(), types.float32: single}
        held = ir.VectorType(kinds[self._kind], 16)
        for u, total in enumerate(totals):
            spot = builder.gep(first, [word(16 * self._bytes * u)])
            found = builder.load(builder.bitcast(spot, held.as_pointer()), align=1)
            if self._kind == types.int8:
                found = builder.sitofp(found, wide)
            elif self._kind == types.uint16:
                found = builder.fpext(found, wide)
            step = builder.fmul(splat, found, flags=("contract",))
            builder.store(builder.fadd(builder.load(total), step, flags=("contract",)), total)

    def write(self, totals, bias, share, place):
        """Write (total + bias) * share for each total, side by side from a place of the output."""
        builder = self.builder
        bias, share = _splat(builder, bias), _splat(builder, share)
        for u, total in enumerate(totals):
            done = builder.fmul(builder.fadd(builder.load(total), bias), share)
            spot = builder.gep(self._out, [builder.add(place, ir.IntType(64)(16 * u))])
            builder.store(done, builder.bitcast(spot, done.type.as_pointer()), align=4)


def _adder(columns):
    """The intrinsic that adds up ``columns`` columns of a bag."""

    @intrinsic
    def _add_rows(
        typing, entries, scales, biases, ids, weights, flat, mean, padding, low, high, last, column,
        place,
    ):  # fmt: skip
        """flat[place + d] = sum or mean of weight * (scale * entries[row, column + d] + bias) over
        rows ids[low:high], d < columns. Vectors by hand: the sums stay in registers over all rows.
        Rows are asked for ahead, up to the id at ``last``."""

        def generate(context, builder, signature, args):
            word, wide = ir.IntType(64), ir.VectorType(ir.FloatType(), 16)
            rows = _Rows(context, builder, signature, args)
            mean, padding, low, high, last, column, place = args[6:]
            totals = [cgutils.alloca_once(builder, wide) for _ in range(0, columns, 16)]
            count = cgutils.alloca_once(builder, word)
            bias = cgutils.alloca_once(builder, ir.FloatType())
            for cell, start in ((count, word(0)), (bias, ir.FloatType()(0.0))):
                builder.store(start, cell)
            for total in totals:
                builder.store(ir.Constant(wide, [0.0] * 16), total)
            with cgutils.for_range_slice(builder, low, high, word(1), word) as (at, _):
                farthest = builder.add(at, word(rows.ahead))
                with cgutils.if_likely(builder, builder.icmp_signed("<", farthest, last)):
                    rows.ask(at, column, columns)
                row = builder.load(builder.gep(rows.ids, [at]))
                with cgutils.if_likely(builder, builder.icmp_signed("!=", row, padding)):
                    builder.store(builder.add(builder.load(count), word(1)), count)
                    with cgutils.if_likely(builder, builder.icmp_signed(">=", row, word(0))):
                        rows.add(row, column, rows.factor(at, row, bias), totals)
            rows.write(
                totals, builder.load(bias), _share(builder, mean, builder.load(count)), place
            )
            return context.get_dummy_value()

        long = types.int64
        arrays = (entries, scales, biases, ids, weights, flat)
        scalars = (types.boolean, long, long, long, long, long, long)
        return types.void(*arrays, *scalars), generate

    return _add_rows


_add_many, _add_some = (_adder(columns) for columns in BLOCKS)


@compiled
def _add_tail(entries, scales, biases, ids, weights, mean, padding, low, high, last, column, total):
    """As the intrinsics, for the columns from ``column`` on, fewer than a block."""
    total[column:] = np.float32(0.0)
    row_bytes = entries.shape[1] * entries.itemsize
    ahead = CODES_AHEAD if entries.itemsize == 1 else FLOATS_AHEAD
    bias = np.float32(0.0)
    count = 0
    for p in range(low, high):
        if p + ahead < last:
            for line in range(column * entries.itemsize, row_bytes, LINE):
                _prefetch(entries, ids[p + ahead] * row_bytes + line)
            if scales.shape[0]:
                _prefetch(scales, ids[p + ahead] * 4)
            if biases.shape[0]:
                _prefetch(biases, ids[p + ahead] * 4)
        row = ids[p]
        if row == padding:
            continue
        count += 1
        if row < 0:
            continue
        factor = weights[p] if weights.shape[0] else np.float32(1.0)
        if biases.shape[0]:
            bias += factor * biases[row]
        if scales.shape[0]:
            factor *= scales[row]
        for d in range(column, total.shape[0]):
            total[d] += factor * number(entries[row, d])
    share = np.float32(1.0)
    if mean and count > 1:
        share = np.float32(1.0) / np.float32(count)
    for d in range(column, total.shape[0]):
        total[d] = (total[d] + bias) * share


@compiled
def bag(entries, scales, biases, ids, offsets, weights, mean, padding, out, low, high):
    """Bags low to high of any kind of table (no scales: its entries are the numbers). Rows are
    added up in blocks of columns, the next ones asked for meanwhile. Biases do not depend on the
    column: they are added up apart."""
    width = entries.shape[1]
    widest = _widest(entries)
    many = width // BLOCKS[0] * BLOCKS[0] if widest == BLOCKS[0] else 0
    blocked = width // BLOCKS[1] * BLOCKS[1] if widest else 0
    flat = out.reshape(out.size)
    last = offsets[high]
    for b in range(low, high):
        start, stop = offsets[b], offsets[b + 1]
        for column in range(0, many, BLOCKS[0]):
            _add_many(
                entries, scales, biases, ids, weights, flat, mean, padding, start, stop, last,
                column, b * width + column,
            )  # fmt: skip
        for column in range(many, blocked, BLOCKS[1]):
            _add_some(
                entries, scales, biases, ids, weights, flat, mean, padding, start, stop, last,
                column, b * width + column,
            )  # fmt: skip
        if blocked < width:
            _add_tail(
                entries, scales, biases, ids, weights, mean, padding, start, stop, last, blocked,
                out[b],
            )  # fmt: skip
