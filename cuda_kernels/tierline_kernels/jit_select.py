"""Compiled loops that keep the k best: of a row of numbers, or of items scored as they are read."""

# Numba infers the types of the loops from their arguments, so they carry none themselves.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
# Called from a loop, an intrinsic lacks the typing context its definition takes.
# mypy: disable-error-code="call-arg,var-annotated"
from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from tierline_kernels.jit import compiled, compiled_sums, inlined

ir: Any = import_module("llvmlite.ir")
make_array: Any = import_module("numba.np.arrayobj").make_array

# The index of a place nobody took; larger than any other, so it always loses a tie.
NOWHERE = np.int64(2**62)
# Items are scored this many at a time: their scores stay in the first-level cache.
BLOCK = 256
# Numbers are compared with a heap's worst entry this many at a time.
GROUP = 64
# Int8 rows are multiplied this many at a time, in pieces of this many bytes at most.
ROWS = 16
PIECE = 64

_LONG, _WORD, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def _vector(kind, lanes):
    return ir.VectorType(kind, lanes)


def _shuffle(builder, a, b, lanes):
    places = ir.Constant(_vector(_WORD, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, places)


def _splat(builder, value, lanes):
    """A vector that holds the value in every lane."""
    nothing = ir.Constant(_vector(value.type, lanes), ir.Undefined)
    first = builder.insert_element(nothing, value, _WORD(0))
    return _shuffle(builder, first, first, [0] * lanes)


def _load(builder, array, place, kind):
    """A vector that starts ``place`` entries into an array's data, at any address."""
    spot = builder.bitcast(builder.gep(array, [place]), kind.as_pointer())
    return builder.load(spot, align=1)


@intrinsic
def _above(typing, numbers, place, sign, bar, level):
    """Bit u is set where sign * numbers[place + u] > bar (>= bar with ``level``), u < GROUP."""

    def generate(context, builder, signature, args):
        data = make_array(signature.args[0])(context, builder, value=args[0]).data
        found = _load(builder, data, args[1], _vector(ir.FloatType(), GROUP))
        found = builder.fmul(found, _splat(builder, args[2], GROUP))
        bars = _splat(builder, args[3], GROUP)
        equal = builder.fcmp_ordered(">=", found, bars)
        bits = builder.select(args[4], equal, builder.fcmp_ordered(">", found, bars))
        return builder.bitcast(bits, _LONG)

    single = types.float32
    return types.int64(numbers, types.int64, single, single, types.boolean), generate


@intrinsic
def _lowest(typing, bits):
    """The place of the lowest bit that is set."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@inlined
def _worse(value, index, than_value, than_index):
    return value < than_value or (value == than_value and index > than_index)


@inlined
def _sink(values, indices, size, value, index):
    """Replace the worst kept entry (the root) and restore the heap."""
    p = 0
    while True:
        c = 2 * p + 1
        if c >= size:
            break
        if c + 1 < size and _worse(values[c + 1], indices[c + 1], values[c], indices[c]):
            c += 1
        if not _worse(values[c], indices[c], value, index):
            break
        values[p] = values[c]
        indices[p] = indices[c]
        p = c
    values[p] = value
    indices[p] = index


@compiled
def clear(values, indices):
    """An empty heap."""
    for u in range(values.shape[0]):
        values[u] = -np.inf
        indices[u] = NOWHERE


@compiled
def unload(values, indices):
    """Turn the heap into a list, best first."""
    for size in range(values.shape[0] - 1, 0, -1):
        value, index = values[size], indices[size]
        values[size], indices[size] = values[0], indices[0]
        _sink(values, indices, size, value, index)


@compiled
def topk_range(row, mask, sign, values, indices, low, high):
    """Offer row[low:high] to a heap; entries offered later lose ties, so offer them in order."""
    k = values.shape[0]
    masked = mask.shape[0] > 0
    whole = low + (high - low) // GROUP * GROUP
    for start in range(low, whole, GROUP):
        found = _above(row, start, sign, values[0], values[0] == -np.inf)
        while found:
            i = start + _lowest(found)
            found &= found - 1
            value = sign * row[i]
            if _worse(values[0], indices[0], value, i) and (not masked or mask[i]):
                _sink(values, indices, k, value, i)
    for i in range(whole, high):
        value = sign * row[i]
        if _worse(values[0], indices[0], value, i) and (not masked or mask[i]):
            _sink(values, indices, k, value, i)


@compiled
def topk_rows(x, masks, sign, lengths, values, indices, low, high):
    """The k best of each of rows low to high, best first; unused entries keep index NOWHERE."""
    for b in range(low, high):
        clear(values[b], indices[b])
        mask = masks[b if masks.shape[0] > 1 else 0]
        topk_range(x[b], mask, sign, values[b], indices[b], 0, lengths[b])
        unload(values[b], indices[b])


@compiled
def _allowed(item, bits, excluded):
    if bits.shape[0] and not (bits[item >> 5] >> np.uint32(item & 31)) & np.uint32(1):
        return False
    low = 0
    high = excluded.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if excluded[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low == excluded.shape[0] or excluded[low] != item


@compiled
def _offer_one(score, item, bits, excluded, values, indices):
    if _worse(values[0], indices[0], score, item) and _allowed(item, bits, excluded):
        _sink(values, indices, values.shape[0], score, item)


@compiled
def offer(scores, first, bits, excluded, values, indices):
    """Offer the scores of items first, first + 1, … to a heap; later items lose ties."""
    whole = scores.shape[0] // GROUP * GROUP
    for start in range(0, whole, GROUP):
        found = _above(scores, start, np.float32(1.0), values[0], values[0] == -np.inf)
        while found:
            u = start + _lowest(found)
            found &= found - 1
            _offer_one(scores[u], first + u, bits, excluded, values, indices)
    for u in range(whole, scores.shape[0]):
        _offer_one(scores[u], first + u, bits, excluded, values, indices)


def _add_pairs(builder, vectors, low, high):
    """Half as many vectors: of each two, their lanes at ``low`` plus their lanes at ``high``."""
    pairs = zip(vectors[0::2], vectors[1::2], strict=True)
    return [
        builder.add(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high)) for a, b in pairs
    ]


def _add_lanes(builder, rows):
    """Of four vectors one: each quarter of its lanes holds the rows' sums over that quarter's."""
    lanes = rows[0].type.count

    def at(*places):
        return [quad + side * lanes + p for quad in range(0, lanes, 4) for p, side in places]

    two = _add_pairs(
        builder, rows, at((0, 0), (0, 1), (1, 0), (1, 1)), at((2, 0), (2, 1), (3, 0), (3, 1))
    )
    return _add_pairs(
        builder, two, at((0, 0), (1, 0), (0, 1), (1, 1)), at((2, 0), (3, 0), (2, 1), (3, 1))
    )[0]


def _add_quads(builder, quads):
    """Add the quarters up: lane r of the one vector that is left is the sum of row r."""
    lanes = quads[0].type.count
    while len(quads) > 1:
        even, odd = (
            [4 * quad + p for quad in range(side, lanes // 2, 2) for p in range(4)]
            for side in (0, 1)
        )
        quads = _add_pairs(builder, quads, even, odd)
    return quads[0]


def _call(builder, name, answer, *arguments):
    made = ir.FunctionType(answer, [each.type for each in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, made, name), arguments)


def _multiply_bytes(builder, features, total, row, query):
    """total + row * query, byte by byte; each lane of total is a part of the sum. Processors with
    VNNI multiply unsigned with signed bytes, so a row's are moved up by 128."""
    kind, count = total.type, total.type.count
    if "+avx512vnni" in features:
        moved = builder.xor(row, ir.Constant(row.type, [-128] * row.type.count))
        parts = (total, builder.bitcast(moved, kind), builder.bitcast(query, kind))
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", kind, *parts)
    if "+avx2" in features:
        half = _vector(ir.IntType(16), row.type.count)
        a, b = builder.sext(row, half), builder.sext(query, half)
        for first in (0, 2 * count):
            lanes = range(first, first + 2 * count)
            sixteen = (_shuffle(builder, v, v, lanes) for v in (a, b))
            total = builder.add(total, _call(builder, "llvm.x86.avx2.pmadd.wd", kind, *sixteen))
        return total
    wide = _vector(_WORD, row.type.count)
    products = builder.mul(builder.sext(row, wide), builder.sext(query, wide))
    for first in range(0, wide.count, count):
        lanes = range(first, first + count)
        total = builder.add(total, _shuffle(builder, products, products, lanes))
    return total


@intrinsic
def _dots_of_rows(typing, codes, query, shift, first, dots, place):
    """dots[place + u] = codes[first + u] · query for u < ROWS. The query is padded with zeros to
    whole pieces, and whole pieces of each row are read; ``shift`` is 128 times the query's sum."""

    def generate(context, builder, signature, args):
        items, wanted, answers = (
            make_array(signature.args[at])(context, builder, value=args[at]) for at in (0, 1, 4)
        )
        width = builder.extract_value(items.shape, 1)
        features = context.codegen().magic_tuple()[2]
        vnni = "+avx512vnni" in features
        lanes = 16 if vnni else 8
        piece = _vector(_BYTE, 4 * lanes)
        zero = ir.Constant(_vector(_WORD, lanes), [0] * lanes)
        pieces = builder.udiv(builder.add(width, _LONG(4 * lanes - 1)), _LONG(4 * lanes))

        def four_rows(start):
            totals = [cgutils.alloca_once(builder, zero.type) for _ in range(4)]
            for total in totals:
                builder.store(zero, total)
            with cgutils.for_range(builder, pieces) as loop:
                column = builder.mul(loop.index, _LONG(4 * lanes))
                part = _load(builder, wanted.data, column, piece)
                for u, total in enumerate(totals):
                    row = builder.mul(builder.add(args[3], _LONG(start + u)), width)
                    found = _load(builder, items.data, builder.add(row, column), piece)
                    made = _multiply_bytes(builder, features, builder.load(total), found, part)
                    builder.store(made, total)
            return _add_lanes(builder, [builder.load(total) for total in totals])

        for start in range(0, ROWS, lanes):
            sums = _add_quads(builder, [four_rows(start + u) for u in range(0, lanes, 4)])
            if vnni:
                sums = builder.sub(sums, _splat(builder, args[2], lanes))
            spot = builder.gep(answers.data, [builder.add(args[5], _LONG(start))])
            builder.store(sums, builder.bitcast(spot, sums.type.as_pointer()), align=4)
        return context.get_dummy_value()

    long = types.int64
    return types.void(codes, query, types.int32, long, dots, long), generate


@inlined
def _finish_int8(dots, scales, biases, query_sum, query_scale, boost, first, scores, size):
    """Float32 steps in the order every back end takes (reference.int8_scores)."""
    for u in range(size):
        scores[u] = np.float32(dots[u]) * scales[first + u]
    if biases.shape[0]:
        for u in range(size):
            scores[u] = scores[u] + query_sum * biases[first + u]
    for u in range(size):
        scores[u] = scores[u] * query_scale
    if boost.shape[0]:
        for u in range(size):
            scores[u] = scores[u] + boost[first + u]


@compiled
def retrieve_int8(
    codes, scales, biases, queries, query_scales, query_sums, bits, excluded, excluded_offsets,
    boost, values, indices, low, high,
):  # fmt: skip
    """Offer codes[low:high] to every query's heap; items are read once. Queries are padded with
    zeros to whole pieces. A group is scored and compared in one go, its size known to the
    compiled code: a few hundred instructions, so that the next rows' loads begin meanwhile."""
    dots = np.empty(GROUP, np.int32)
    scores = np.empty(GROUP, np.float32)
    shifts = np.zeros(queries.shape[0], np.int32)
    for b in range(queries.shape[0]):
        for d in range(queries.shape[1]):
            shifts[b] += np.int32(queries[b, d]) * np.int32(128)
    # Whole pieces may reach into the rows that follow, where the query is zero: never further.
    last = (codes.size - queries.shape[1]) // max(codes.shape[1], 1)
    for first in range(low, high, GROUP):
        size = min(GROUP, high - first)
        whole = size == GROUP and first + GROUP <= last + 1
        for b in range(queries.shape[0]):
            banned = excluded[excluded_offsets[b] : excluded_offsets[b + 1]]
            if whole:
                for u in range(0, GROUP, ROWS):
                    _dots_of_rows(codes, queries[b], shifts[b], first + u, dots, u)
                _finish_int8(
                    dots, scales, biases, query_sums[b], query_scales[b], boost, first, scores,
                    GROUP,
                )  # fmt: skip
                bar = values[b, 0]
                found = _above(scores, 0, np.float32(1.0), bar, bar == -np.inf)
                while found:
                    u = _lowest(found)
                    found &= found - 1
                    _offer_one(scores[u], first + u, bits, banned, values[b], indices[b])
                continue
            for u in range(size):
                dots[u] = 0
                for d in range(codes.shape[1]):
                    dots[u] += np.int32(codes[first + u, d]) * np.int32(queries[b, d])
            _finish_int8(
                dots, scales, biases, query_sums[b], query_scales[b], boost, first, scores, size
            )
            for u in range(size):
                _offer_one(scores[u], first + u, bits, banned, values[b], indices[b])


@compiled_sums
def _dots_float(items, query, first, scores):
    for u in range(scores.shape[0]):
        dot = np.float32(0.0)
        for d in range(items.shape[1]):
            dot += items[first + u, d] * query[d]
        scores[u] = dot


@compiled
def retrieve_float(
    items, base, queries, bits, excluded, excluded_offsets, boost, values, indices, low, high
):
    """Offer items[low:high], which are items base + low, … of the catalogue, to every heap."""
    scores = np.empty(BLOCK, np.float32)
    for first in range(low, high, BLOCK):
        size = min(BLOCK, high - first)
        for b in range(queries.shape[0]):
            _dots_float(items, queries[b], first, scores[:size])
            if boost.shape[0]:
                for u in range(size):
                    scores[u] = scores[u] + boost[base + first + u]
            banned = excluded[excluded_offsets[b] : excluded_offsets[b + 1]]
            offer(scores[:size], base + first, bits, banned, values[b], indices[b])


@compiled
def offer_scores(scores, base, bits, excluded, excluded_offsets, boost, values, indices, low, high):
    """Offer finished scores [queries, items] to the heaps of queries low to high."""
    part = np.empty(BLOCK, np.float32)
    for b in range(low, high):
        banned = excluded[excluded_offsets[b] : excluded_offsets[b + 1]]
        for first in range(0, scores.shape[1], BLOCK):
            size = min(BLOCK, scores.shape[1] - first)
            for u in range(size):
                part[u] = scores[b, first + u]
                if boost.shape[0]:
                    part[u] = part[u] + boost[base + first + u]
            offer(part[:size], base + first, bits, banned, values[b], indices[b])
