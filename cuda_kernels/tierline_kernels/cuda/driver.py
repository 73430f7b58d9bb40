"""Runs kernels: on a device through cuda.core, or as Python in Numba's simulator.

Kernels take plain pointers and 64-bit integers, so a launch converts nothing. Their machine code
comes from the package when it was built ahead, else from the compiler on first use.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.cuda import shipped, simulator
from tierline_kernels.cuda.catalogue import Kernel
from tierline_kernels.cuda.intrinsics import SIMULATED, cuda
from tierline_kernels.cuda.plan import Machine
from tierline_kernels.errors import BackEndMissing

log = logging.getLogger("tierline.kernels")

Grid = tuple[int, int]


class Memory:
    """Device memory: ``pointer`` goes to kernels, ``owner`` keeps it alive."""

    __slots__ = ("address", "owner", "pointer")

    def __init__(self, pointer: Any, owner: Any, address: int) -> None:
        self.pointer = pointer
        self.owner = owner
        self.address = address

    @property
    def aligned(self) -> bool:
        """Whether 16-byte loads may start here."""
        return self.address % 16 == 0

    def part(self, start: int, size: int) -> Memory:
        """The same memory from entry ``start`` on, for entries of ``size`` bytes."""
        moved = self.pointer[start:] if SIMULATED else self.pointer + start * size
        return Memory(moved, self.owner, self.address + start * size)


class Driver(Protocol):
    """What the operations ask of a device."""

    machine: Machine

    @property
    def stream_handle(self) -> int: ...

    def launch(self, kernel: Kernel, grid: Grid, threads: int, *arguments: Any) -> None: ...

    def upload(self, array: NDArray[Any] | None, dtype: Any) -> Memory: ...

    def refill(self, memory: Memory, array: NDArray[Any], dtype: Any) -> None: ...

    def empty(self, count: int, dtype: Any) -> Memory: ...

    def download(self, memory: Memory, count: int, dtype: Any) -> NDArray[Any]: ...


class Simulator:
    """Blocks one after the other, each CUDA thread a Python thread: for tests, on tiny sizes."""

    machine = Machine(threads=64, blocks=4, capability=(9, 0))
    stream_handle = 0

    def __init__(self) -> None:
        simulator.install()
        self._made: dict[str, Any] = {}

    def launch(self, kernel: Kernel, grid: Grid, threads: int, *arguments: Any) -> None:
        if kernel.name not in self._made:
            self._made[kernel.name] = cuda.jit(kernel.make())
        pointers = [each.pointer if isinstance(each, Memory) else each for each in arguments]
        # On a device a float that overflows says nothing.
        with np.errstate(all="ignore"), simulator.running(grid, threads):
            self._made[kernel.name][grid, threads](*pointers)

    def upload(self, array: NDArray[Any] | None, dtype: Any) -> Memory:
        flat = np.zeros(1, dtype) if array is None or array.size == 0 else array.reshape(-1)
        memory = self.empty(flat.size, dtype)
        self.refill(memory, flat, dtype)
        return memory

    def refill(self, memory: Memory, array: NDArray[Any], dtype: Any) -> None:
        memory.pointer[: array.size] = array.reshape(-1).astype(dtype)

    def empty(self, count: int, dtype: Any) -> Memory:
        size = max(1, count) * np.dtype(dtype).itemsize
        raw = np.full(size + 256, 0xFF, np.uint8)  # poisoned, and aligned as a device's memory is
        start = -raw.ctypes.data % 256
        array = raw[start : start + size].view(dtype)
        return Memory(array, raw, array.ctypes.data)

    def download(self, memory: Memory, count: int, dtype: Any) -> NDArray[Any]:
        return np.array(memory.pointer[:count], dtype)


class Device:
    """One CUDA device and one stream, through cuda.core."""

    def __init__(self, number: int = 0, stream: int | None = None) -> None:
        """``stream`` is the handle of a foreign stream to work on. Raises BackEndMissing."""
        try:
            self._core: Any = import_module("cuda.core")
            self._driver: Any = import_module("cuda.bindings.driver")
            self._device = self._core.Device(number)
            self._thread = threading.local()
            self._enter()
        except Exception as problem:  # each wheel and the driver fail in ways of their own
            raise BackEndMissing(f"no CUDA device can be used here ({problem}).") from problem
        made = self._core.Stream.from_handle(stream) if stream else self._device.create_stream()
        self.stream: Any = made
        major, minor = self._device.compute_capability
        processors = int(self._device.properties.multiprocessor_count)
        self.machine = Machine(threads=256, blocks=2 * processors, capability=(major, minor))
        self._kernels: dict[str, Any] = {}
        self._configurations: dict[tuple[Grid, int], Any] = {}

    def _enter(self) -> None:
        """Make the device this thread's own: to the driver each thread starts without one, and a
        server loads on one thread and answers on another."""
        if not getattr(self._thread, "entered", False):
            self._device.set_current()
            self._thread.entered = True

    def launch(self, kernel: Kernel, grid: Grid, threads: int, *arguments: Any) -> None:
        """Put one launch on the stream (or into the graph being captured); waits for nothing."""
        self._enter()
        code = self._kernels.get(kernel.name) or self._load(kernel)
        key = (grid, threads)
        configuration = self._configurations.get(key)
        if configuration is None:
            configuration = self._core.LaunchConfig(grid=grid, block=threads)
            self._configurations[key] = configuration
        pointers = [each.pointer if isinstance(each, Memory) else each for each in arguments]
        self._core.launch(self.stream, configuration, code, *pointers)

    def _load(self, kernel: Kernel) -> Any:
        code, symbol = machine_code(kernel, self.machine.capability)
        self._kernels[kernel.name] = self._core.ObjectCode.from_cubin(code).get_kernel(symbol)
        return self._kernels[kernel.name]

    def upload(self, array: NDArray[Any] | None, dtype: Any) -> Memory:
        flat = np.zeros(1, dtype) if array is None or array.size == 0 else array.reshape(-1)
        memory = self.empty(flat.size, dtype)
        self.refill(memory, flat, dtype)
        return memory

    def refill(self, memory: Memory, array: NDArray[Any], dtype: Any) -> None:
        """Copy an array into memory that is there already; from pageable memory, so the array may
        go at once."""
        self._enter()
        flat = np.ascontiguousarray(array, dtype)
        stream = self._driver.CUstream(self.stream_handle)
        self._check(
            self._driver.cuMemcpyHtoDAsync(memory.pointer, flat.ctypes.data, flat.nbytes, stream)
        )

    def empty(self, count: int, dtype: Any) -> Memory:
        self._enter()
        size = max(1, count) * np.dtype(dtype).itemsize
        buffer = self._device.allocate(size, stream=self.stream)
        address = int(buffer.handle)
        return Memory(address, buffer, address)

    def download(self, memory: Memory, count: int, dtype: Any) -> NDArray[Any]:
        """Wait for the stream and copy to the host."""
        self._enter()
        found = np.empty(count, dtype)
        stream = self._driver.CUstream(self.stream_handle)
        self._check(
            self._driver.cuMemcpyDtoHAsync(found.ctypes.data, memory.pointer, found.nbytes, stream)
        )
        self.stream.sync()
        return found

    @property
    def stream_handle(self) -> int:
        """For libraries that shall work on the same stream."""
        return int(self.stream.handle)

    def _check(self, answer: Any) -> None:
        if int(answer[0]) != 0:
            raise BackEndMissing(f"the CUDA driver refused a copy: {answer[0]}.")

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """What is launched inside becomes one graph; memory must be there before. ::

        with device.capture() as graph:
            lookup.run(); retrieval.run()
        graph.replay()
        """
        self._enter()
        stream, graph = self.stream, Graph(self._enter)
        builder = stream.create_graph_builder()
        builder.begin_building()
        self.stream = builder
        try:
            yield graph
        finally:
            self.stream = stream
            built = builder.end_building()
        graph.executable, graph.stream = built.complete(), stream
        graph.executable.upload(stream)


class Graph:
    """Captured launches that are put on their stream in one call."""

    executable: Any = None
    stream: Any = None

    def __init__(self, enter: Callable[[], None]) -> None:
        self._enter = enter

    def replay(self) -> None:
        """Run everything captured again, on the same memory; waits for nothing."""
        self._enter()
        self.executable.launch(self.stream)


def borrow(address: int, owner: Any) -> Memory:
    """Memory of somebody else (a torch tensor's, an OrtValue's), kept alive by ``owner``."""
    return Memory(address, owner, address)


def machine_code(kernel: Kernel, capability: tuple[int, int]) -> tuple[bytes, str]:
    """A kernel's cubin and symbol: from the package, or else compiled now. Logs which."""
    target = f"{capability[0]}.{capability[1]}"
    found = shipped.load(kernel.name, capability)
    if found is not None:
        log.debug("%s for %s: machine code from the package", kernel.name, target)
        return found
    log.info("%s for %s: the package holds no machine code for it; compiled", kernel.name, target)
    build: Any = import_module("tierline_kernels.cuda.build")
    made = build.build(kernel, capability)
    return made.cubin, made.symbol


@cache
def default_driver() -> Driver:
    """The simulator when Numba runs it, else the first device. Raises BackEndMissing."""
    return Simulator() if SIMULATED else Device()
