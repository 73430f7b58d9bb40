"""Times launches: a kernel's own time by events around graph replays, a call's time on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from tierline_kernels.cuda.driver import Device, Driver, Memory, Simulator


@dataclass(frozen=True, slots=True)
class Times:
    """Medians in microseconds; ``spread`` is the quartiles' distance over the median."""

    kernel_us: float
    call_us: float
    replay_us: float  # on the host, for one graph of the whole operation
    spread: float


def summary(taken: Sequence[float]) -> tuple[float, float]:
    """Median and relative distance of the quartiles."""
    low, middle, high = np.percentile(taken, [25, 50, 75])
    return float(middle), float((high - low) / middle) if middle else 0.0


def on_device(device: Device, runs: Sequence[Callable[[], None]], repeats: int) -> Times:
    """``runs`` are the same operation on different inputs, taken in turn: the cache holds none."""
    core: Any = import_module("cuda.core")
    for run in runs:
        run()
    device.stream.sync()
    graphs = []
    for run in runs:
        with device.capture() as graph:
            run()
        graphs.append(graph)
    timing = core.EventOptions(timing_enabled=True)
    events = [[device.stream.device.create_event(timing) for _ in range(2)] for _ in range(repeats)]
    replays = []
    for turn, (before, after) in enumerate(events):
        device.stream.record(before)
        started = time.perf_counter()
        graphs[turn % len(graphs)].replay()
        replays.append((time.perf_counter() - started) * 1e6)
        device.stream.record(after)
    device.stream.sync()
    kernel, spread = summary([(after - before) * 1e3 for before, after in events])
    calls = []
    for turn in range(repeats):
        started = time.perf_counter()
        runs[turn % len(runs)]()
        calls.append((time.perf_counter() - started) * 1e6)
    device.stream.sync()
    return Times(kernel, median(calls), median(replays), spread)


def simulated(runs: Sequence[Callable[[], None]], repeats: int) -> Times:
    """Seconds of Python: they show that everything runs, and nothing else."""
    taken = []
    for turn in range(repeats):
        started = time.perf_counter()
        runs[turn % len(runs)]()
        taken.append((time.perf_counter() - started) * 1e6)
    middle, spread = summary(taken)
    return Times(middle, middle, middle, spread)


def measure(driver: Driver, runs: Sequence[Callable[[], None]], repeats: int) -> Times:
    """Times of one operation."""
    if isinstance(driver, Device):
        return on_device(driver, runs, repeats)
    return simulated(runs, min(repeats, len(runs)))


class Copy:
    """A copy in device memory: what every bandwidth is held against."""

    def __init__(self, driver: Driver, size: int) -> None:
        self._driver, self.size = driver, size
        self._source: Memory = driver.empty(size, np.uint8)
        self._target: Memory = driver.empty(size, np.uint8)

    def run(self) -> None:
        """Copy once."""
        if isinstance(self._driver, Simulator):
            self._target.pointer[:] = self._source.pointer
            return
        device: Any = self._driver
        self._source.owner.copy_to(self._target.owner, stream=device.stream)
