"""Warp operations for Numba's CUDA simulator, which has none: one barrier a warp.

Every lane of a warp must reach each operation, as on a GPU: a lane that has returned leaves the
others waiting, so kernels guard whole warps.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

import numpy as np

_creating = threading.Lock()


class _Warp:
    def __init__(self, lanes: int) -> None:
        self.barrier = threading.Barrier(lanes)
        self.slots: list[Any] = [None] * lanes


def _exchange(value: Any) -> tuple[list[Any], int]:
    """Every lane's value, and this lane's number."""
    thread: Any = threading.current_thread()
    manager = thread._manager
    number, lane = divmod(int(thread.thread_id), 32)
    with _creating:
        warps = manager.__dict__.setdefault("_tierline_warps", {})
        if number not in warps:
            warps[number] = _Warp(min(32, int(np.prod(manager._block_dim)) - 32 * number))
    warp = warps[number]
    warp.slots[lane] = value
    warp.barrier.wait()
    values = list(warp.slots)
    warp.barrier.wait()
    return values, lane


def _shfl_sync(_: Any, mask: int, value: Any, source: int) -> Any:
    values, _lane = _exchange(value)
    return values[int(source) & 31]


def _shfl_xor_sync(_: Any, mask: int, value: Any, distance: int) -> Any:
    values, lane = _exchange(value)
    return values[lane ^ int(distance)]


def _shfl_up_sync(_: Any, mask: int, value: Any, distance: int) -> Any:
    values, lane = _exchange(value)
    return values[lane - int(distance)] if lane >= int(distance) else value


def _ballot_sync(_: Any, mask: int, predicate: Any) -> int:
    values, _lane = _exchange(bool(predicate))
    return sum(1 << lane for lane, value in enumerate(values) if value)


def install() -> None:
    """Give the simulator the warp operations the kernels use."""
    module: Any = import_module("numba.cuda.simulator.kernelapi").FakeCUDAModule
    module.shfl_sync = _shfl_sync
    module.shfl_xor_sync = _shfl_xor_sync
    module.shfl_up_sync = _shfl_up_sync
    module.ballot_sync = _ballot_sync
