"""How the CPU loops are compiled: they release the interpreter lock and are cached on disk.

They take row ranges and leave sharing the work to cpu.py, instead of using Numba's own thread
pool, whose default layer aborts the process when two server threads enter it at once.
A cached loop is compiled anew when its own file changes, so whatever it inlines stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use; keep the machine code beside the source or in the user's cache."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no writable cache folder anywhere: compile anew in each process
        return numba.njit(nogil=True, error_model="numpy")(function)


def compiled_sums(function: Callable[..., Any]) -> Any:
    """As ``compiled``, for sums that may be added in any order (float dot products)."""
    loose = {"reassoc", "contract"}
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True, fastmath=loose)(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy", fastmath=loose)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of a loop; it becomes part of every loop that uses it."""
    return numba.njit(inline="always", error_model="numpy")(function)
