"""The kernel that quantises queries where they lie, to the host's codes bit for bit."""

# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from tierline_kernels.cuda.intrinsics import cuda, inlined, nearest, quotient_rest
from tierline_kernels.cuda.select import ALL

_floats = types.CPointer(types.float32)
QUANTIZE_SIGNATURE = types.void(
    _floats, types.CPointer(types.int8), _floats, _floats, types.int64, types.int64
)


@inlined
def _code(x, scale):
    """x / scale to the nearest whole number, as if divided in double precision.

    A quotient rounded to float32 can land on a half that the true one misses; the division's rest
    tells on which side that lies.
    """
    q = x / scale
    code = nearest(q)
    below = np.float32(math.floor(q))
    if q - below == np.float32(0.5):
        rest = quotient_rest(x, q, scale)
        if rest > np.float32(0.0):
            code = below + np.float32(1.0)
        elif rest < np.float32(0.0):
            code = below
    return min(max(code, np.float32(-127.0)), np.float32(127.0))


def make_quantize() -> Any:
    """Codes, scale and sum of codes of query blockIdx.x; past ``count``, of a query of zeros.

    A query that is not finite gets a NaN scale: all its scores are NaN and it finds nothing.
    """

    def quantize(queries, codes, scales, sums, width, count):
        lane = cuda.threadIdx.x
        query = np.int64(cuda.blockIdx.x)
        most = np.float32(0.0)
        column = np.int64(lane)
        if query < count:
            while column < width:
                x = abs(queries[query * width + column])
                if not x <= most:
                    most = x
                if x != x:
                    most = np.float32(np.inf)
                column += 32
        for step in (16, 8, 4, 2, 1):
            other = cuda.shfl_xor_sync(ALL, most, step)
            most = max(most, other)
        scale = most / np.float32(127.0)
        finite = scale < np.float32(np.inf)
        if scale == np.float32(0.0):
            scale = np.float32(1.0)
        total = np.int32(0)
        column = np.int64(lane)
        while column < width:
            code = np.float32(0.0)
            if finite and query < count:
                code = _code(queries[query * width + column], scale)
            codes[query * width + column] = np.int8(code)
            total += np.int32(code)
            column += 32
        for step in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(ALL, total, step)
        if lane == 0:
            scales[query] = scale if finite else np.float32(np.nan)
            sums[query] = np.float32(total)

    return quantize
