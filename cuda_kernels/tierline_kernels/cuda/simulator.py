"""Warp operations for Numba's CUDA simulator, which has none: one barrier a warp.

Every lane of a warp must reach each operation, as on a GPU: a lane that has returned leaves the
others waiting, so kernels guard whole warps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

_creating = threading.Lock()
KERNEL_MODULES = ("rows", "select", "retrieve", "tensor", "quantize")
PATIENCE = 20.0  # seconds


class _Warp:
    def __init__(self, lanes: int) -> None:
        # A lane that raised never comes: the others must not wait for ever.
        self.barrier = threading.Barrier(lanes, timeout=PATIENCE)
        # Two sets, used in turn: a lane that is one operation ahead overwrites nobody's.
        self.slots: tuple[list[Any], list[Any]] = ([None] * lanes, [None] * lanes)


def exchange(value: Any) -> tuple[list[Any], int]:
    """Every lane's value, and this lane's number."""
    thread: Any = threading.current_thread()
    manager = thread._manager
    number, lane = divmod(int(thread.thread_id), 32)
    with _creating:
        warps = manager.__dict__.setdefault("_tierline_warps", {})
        if number not in warps:
            warps[number] = _Warp(min(32, int(np.prod(manager._block_dim)) - 32 * number))
    warp = warps[number]
    turn = thread.__dict__.get("_tierline_turn", 0)
    thread._tierline_turn = 1 - turn
    warp.slots[turn][lane] = value
    warp.barrier.wait()
    return warp.slots[turn], lane


def _shfl_sync(_: Any, mask: int, value: Any, source: int) -> Any:
    values, _lane = exchange(value)
    return values[int(source) & 31]


def _shfl_xor_sync(_: Any, mask: int, value: Any, distance: int) -> Any:
    values, lane = exchange(value)
    return values[lane ^ int(distance)]


def _shfl_up_sync(_: Any, mask: int, value: Any, distance: int) -> Any:
    values, lane = exchange(value)
    return values[lane - int(distance)] if lane >= int(distance) else value


def _ballot_sync(_: Any, mask: int, predicate: Any) -> int:
    values, _lane = exchange(bool(predicate))
    return sum(1 << lane for lane, value in enumerate(values) if value)


@contextmanager
def running(grid: tuple[int, int], threads: int) -> Iterator[None]:
    """The kernels' modules see the simulated ``cuda`` meanwhile. Numba swaps a function's globals
    itself, but device functions' once for each thread: the first to leave takes it from the rest.
    """
    fake: Any = import_module("numba.cuda.simulator.kernelapi").FakeCUDAModule
    module = fake((*grid, 1), (threads, 1, 1), 0)
    globals_ = [vars(import_module(f"tierline_kernels.cuda.{name}")) for name in KERNEL_MODULES]
    kept = [each["cuda"] for each in globals_]
    for each in globals_:
        each["cuda"] = module
    try:
        yield
    finally:
        for each, cuda in zip(globals_, kept, strict=True):
            each["cuda"] = cuda


def install() -> None:
    """Give the simulator the warp operations the kernels use."""
    module: Any = import_module("numba.cuda.simulator.kernelapi").FakeCUDAModule
    module.shfl_sync = _shfl_sync
    module.shfl_xor_sync = _shfl_xor_sync
    module.shfl_up_sync = _shfl_up_sync
    module.ballot_sync = _ballot_sync
