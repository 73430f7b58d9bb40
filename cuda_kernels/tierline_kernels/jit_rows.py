"""Compiled loops over embedding rows: look-up and bags, for a range of outputs each."""

# Numba infers the types of the loops from their arguments, so they carry none themselves.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from tierline_kernels.jit import compiled


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
    """Four rows are in flight at a time: one row's cache misses hide behind the others'."""
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        p = offsets[b]
        end = offsets[b + 1]
        while p < end:
            if p + 4 <= end and weights.shape[0] == 0:
                r0, r1, r2, r3 = ids[p], ids[p + 1], ids[p + 2], ids[p + 3]
                plain = min(min(r0, r1), min(r2, r3)) >= 0
                if plain and r0 != padding and r1 != padding and r2 != padding and r3 != padding:
                    for d in range(total.shape[0]):
                        total[d] += (number(table[r0, d]) + number(table[r1, d])) + (
                            number(table[r2, d]) + number(table[r3, d])
                        )
                    count += 4
                    p += 4
                    continue
            row = ids[p]
            weight = weights[p] if weights.shape[0] else np.float32(1.0)
            p += 1
            if row == padding:
                continue
            count += 1
            if row >= 0:
                for d in range(total.shape[0]):
                    total[d] += weight * number(table[row, d])
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
            for d in range(total.shape[0]):
                total[d] *= share


@compiled
def bag_int8(codes, scales, biases, ids, offsets, weights, mean, padding, out, low, high):
    """Biases do not depend on the column: they are added up once a bag."""
    for b in range(low, high):
        total = out[b]
        total[:] = np.float32(0.0)
        count = 0
        bias = np.float32(0.0)
        for p in range(offsets[b], offsets[b + 1]):
            row = ids[p]
            if row == padding:
                continue
            count += 1
            if row < 0:
                continue
            weight = weights[p] if weights.shape[0] else np.float32(1.0)
            scale = weight * scales[row]
            if biases.shape[0]:
                bias += weight * biases[row]
            for d in range(total.shape[0]):
                total[d] += scale * np.float32(codes[row, d])
        share = np.float32(1.0)
        if mean and count > 1:
            share = np.float32(1.0) / np.float32(count)
        for d in range(total.shape[0]):
            total[d] = (total[d] + bias) * share
