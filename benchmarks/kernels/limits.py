"""What this machine's memory allows, measured beside the kernels: rows, all in order, a copy."""

# Numba infers the types of the loop from its arguments.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-untyped-decorators=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import cpu
from tierline_kernels.jit import compiled
from tierline_kernels.jit_rows import CODES_AHEAD, _prefetch

WORDS = 8  # int64 in a cache line


@compiled
def _read_rows(table, ids, low, high):
    """The sum of one word of each cache line of the rows, which are asked for ahead."""
    width = table.shape[1]
    total = 0
    for i in range(low, high):
        if i + CODES_AHEAD < high:
            for word in range(0, width, WORDS):
                _prefetch(table, (ids[i + CODES_AHEAD] * width + word) * 8)
        for word in range(0, width, WORDS):
            total += table[ids[i], word]
    return total


def reader(table: NDArray[Any], ids: NDArray[np.int64]) -> Callable[[], None]:
    """Reads these rows of a table, shared out as a bag's are, and does nothing with them."""
    words = table.view(np.int64)
    shares = cpu._shares(len(ids), len(ids) * words.shape[1] * 8)

    def part(_: int, low: int, high: int) -> None:
        _read_rows(words, ids, low, high)

    return lambda: cpu._run(part, shares)


def sweeper(table: NDArray[Any]) -> Callable[[], None]:
    """Reads the whole table in order."""
    return reader(table, np.arange(len(table)))


def copier(table: NDArray[Any]) -> Callable[[], None]:
    """Copies one half of a table over the other."""
    half = len(table) // 2
    shares = cpu._shares(half, table.nbytes)

    def part(_: int, low: int, high: int) -> None:
        np.copyto(table[half + low : half + high], table[low:high])

    return lambda: cpu._run(part, shares)
