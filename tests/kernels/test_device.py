"""What a device would be asked to do, recorded by a stand-in for cuda.core: no GPU is needed."""

from __future__ import annotations

import ctypes
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tierline_edge.device import DeviceItems, Recommendation
from tierline_kernels import BackEndMissing, KernelError, RowwiseInt8
from tierline_kernels.cuda import catalogue, driver, plan
from tierline_kernels.cuda.device import Bag, Bags, DeviceTable, Retrieval, Rows, Selection
from tierline_kernels.cuda.plan import Machine

H200 = Machine(threads=256, blocks=264, capability=(9, 0))
T4 = Machine(threads=256, blocks=80, capability=(7, 5))


class FakeStream:
    """Remembers what was put on it, in order."""

    handle = 77

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def sync(self) -> None:
        self.seen.append(("sync",))

    def create_graph_builder(self) -> FakeBuilder:
        return FakeBuilder(self)


class FakeBuilder(FakeStream):
    def __init__(self, stream: FakeStream) -> None:
        super().__init__()
        self.stream = stream

    def begin_building(self) -> None:
        self.seen.append(("begin",))

    def end_building(self) -> FakeBuilder:
        self.seen.append(("end",))
        return self

    def complete(self) -> Any:
        return SimpleNamespace(
            upload=lambda stream: None, launch=lambda stream: stream.seen.append(("graph", self))
        )


class FakeCore:
    """The part of cuda.core the driver uses, on host memory."""

    def __init__(self) -> None:
        self.stream = FakeStream()
        self.entered: list[int] = []
        self.Device = lambda number: SimpleNamespace(
            set_current=lambda: self.entered.append(threading.get_ident()),
            create_stream=lambda: self.stream,
            compute_capability=(9, 0),
            properties=SimpleNamespace(multiprocessor_count=132),
            allocate=self._allocate,
        )
        self.Stream = SimpleNamespace(from_handle=lambda handle: self.stream)
        self.ObjectCode = SimpleNamespace(
            from_cubin=lambda code: SimpleNamespace(get_kernel=lambda symbol: symbol)
        )
        self.LaunchConfig = lambda grid, block: (grid, block)

    def _allocate(self, size: int, *, stream: Any) -> Any:
        memory = np.zeros(size + 256, np.uint8)
        return SimpleNamespace(handle=memory.ctypes.data + -memory.ctypes.data % 256, keep=memory)

    @staticmethod
    def launch(stream: FakeStream, configuration: Any, kernel: str, *arguments: Any) -> None:
        stream.seen.append((kernel, *configuration, arguments))


class FakeCuda:
    """The copies of cuda.bindings.driver, on host memory."""

    CUstream = staticmethod(lambda handle: handle)

    @staticmethod
    def cuMemcpyHtoDAsync(to: int, source: int, size: int, stream: int) -> tuple[int]:
        ctypes.memmove(to, source, size)
        return (0,)

    cuMemcpyDtoHAsync = cuMemcpyHtoDAsync


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> driver.Device:
    modules = {"cuda.core": FakeCore(), "cuda.bindings.driver": FakeCuda}
    monkeypatch.setattr(driver, "import_module", modules.__getitem__)
    monkeypatch.setattr(driver, "machine_code", lambda kernel, capability: (b"", kernel.name))
    return driver.Device()


def launches(device: driver.Device) -> list[tuple[Any, ...]]:
    return [each for each in device.stream.seen if len(each) == 4]


def int8_table(n: int, d: int) -> RowwiseInt8:
    return RowwiseInt8(np.ones((n, d), np.int8), np.ones(n, np.float32))


def test_a_launch_passes_pointers_and_integers_that_fit_the_kernels_signature(
    device: driver.Device,
) -> None:
    table = DeviceTable(device, int8_table(1000, 128))
    ids, offsets = device.upload(np.arange(6), np.int64), device.upload(np.array([0, 6]), np.int64)
    Bag(table, Bags(ids, 6, offsets, 1), device.empty(128, np.float32), bounds="warn").run()
    Retrieval(table, device.empty(8 * 128, np.float32), 8, 40).run()
    lengths = device.upload(np.full(2, 640), np.int64)
    Selection(device, Rows(device.empty(1280, np.float32), 2, 640, lengths), 50).run()
    known = {kernel.name: kernel for kernel in catalogue.kernels()}
    done = launches(device)
    assert [name for name, *_ in done] == [
        "check", "bag_int8_128", "quantize", "tensor_128", "sort_2048", "emit", "certify",
        "keys_by4", "sort_256", "emit", "certify",
    ]  # fmt: skip
    for name, grid, threads, arguments in done:
        assert len(arguments) == len(known[name].signature.args), name
        assert all(type(each) is int for each in arguments), name
        assert min(grid) >= 1
        assert 32 <= threads <= 1024


def test_nothing_waits_for_the_device_before_the_answer_is_asked_for(
    device: driver.Device,
) -> None:
    table = DeviceTable(device, int8_table(1000, 64))
    retrieval = Retrieval(table, device.empty(64, np.float32), 1, 10)
    retrieval.run()
    assert ("sync",) not in device.stream.seen
    retrieval.answer()
    assert device.stream.seen[-1] == ("sync",)


def test_look_up_and_top_k_are_captured_in_one_graph_and_replayed_in_one_call(
    device: driver.Device,
) -> None:
    table = DeviceTable(device, int8_table(500, 64))
    ids = device.upload(np.arange(4), np.int64)
    state = device.empty(4 * 64, np.float32)
    look_up, best = Bag(table, Bags(ids, 4, None, 4), state), Retrieval(table, state, 4, 5)
    stream = device.stream
    with device.capture() as graph:
        look_up.run()
        best.run()
    assert device.stream is stream
    assert launches(device) == []
    graph.replay()
    ((_, builder),) = stream.seen
    assert builder.seen[0] == ("begin",)
    assert builder.seen[-1] == ("end",)
    names = [each[0] for each in builder.seen[1:-1]]
    assert names == ["bag_int8_64", "quantize", "tensor_64", "sort_1024", "emit"]


class RecordingSession:
    """An encoder that notes on the stream when it was run, and on which memory."""

    def __init__(self, device: driver.Device) -> None:
        self._device = device
        self.places: list[tuple[Any, Any]] = []

    def run_bound(self, inputs: Any, outputs: Any) -> None:
        self._device.stream.seen.append(("encoder",))
        self.places.append((inputs, outputs))


def test_look_up_encoder_and_top_k_are_one_graph_that_copies_nothing_and_waits_for_nothing(
    device: driver.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[str] = []
    for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"):
        copy = getattr(FakeCuda, name)
        noted = lambda *a, copy=copy, name=name: (copies.append(name), copy(*a))[1]  # noqa: E731
        monkeypatch.setattr(FakeCuda, name, staticmethod(noted))
    session: Any = RecordingSession(device)
    plan = Recommendation(
        DeviceItems(int8_table(500, 64), device), session, ["hidden", "doubt"], (4, 10), 5, 40
    )
    plan.capture()
    stream = device.stream
    before = len(stream.seen)
    copies.clear()
    plan.replay()
    plan.replay()
    assert copies == []
    graphs = stream.seen[before:]
    assert [each[0] for each in graphs] == ["graph", "graph"]  # one call on the host each
    builder = graphs[0][1]
    names = [each[0] for each in builder.seen]
    assert names == [
        "begin", "bag_int8_64", "encoder", "quantize", "tensor_64", "sort_1024", "emit", "end",
    ]  # fmt: skip
    # What was captured works on the memory of every later run: the look-up writes where the
    # encoder reads, and the encoder writes where the retrieval reads.
    assert session.places[0] == session.places[1]
    inputs, outputs = session.places[1]
    bag, quantize = builder.seen[1], builder.seen[3]
    assert inputs["embedded"] == (bag[3][6], (4, 10, 64))
    assert outputs["hidden"] == (quantize[3][0], (4, 64))
    plan.fill(np.ones((4, 10), np.int64), (np.arange(4), np.arange(5)))
    assert copies == ["cuMemcpyHtoDAsync"] * 4
    assert ("sync",) not in stream.seen[before:]
    plan.answer()
    assert copies[4:] == ["cuMemcpyDtoHAsync"] * 4
    assert stream.seen[-1] == ("sync",)


def test_every_thread_makes_the_device_its_own_once_before_it_asks_for_anything(
    device: driver.Device,
) -> None:
    with device.capture() as graph:
        pass
    memory = device.empty(1, np.float32)

    def ask() -> None:
        graph.replay()
        device.refill(memory, np.ones(1), np.float32)
        device.download(memory, 1, np.float32)
        device.launch(catalogue.EMIT, (1, 1), 32)

    for _ in range(2):
        other = threading.Thread(target=ask)
        other.start()
        other.join()
    entered = device._core.entered
    assert entered[0] == threading.get_ident()
    assert len(entered) == 3
    assert threading.get_ident() not in entered[1:]


def test_a_device_that_is_not_there_is_one_typed_error() -> None:
    with pytest.raises(BackEndMissing, match="no CUDA device"):
        driver.Device()


def test_int8_queries_meet_tensor_cores_from_two_on_where_there_are_any() -> None:
    def kernel(machine: Machine, count: int, d: int = 128) -> str:
        return plan.retrieval(
            machine, "int8", 10**6, d, count, aligned=True, exact=False
        ).kernel.name

    assert kernel(H200, 1) == "scan_int8_128_by1"
    assert kernel(H200, 2) == kernel(H200, 32) == "tensor_128"
    assert kernel(T4, 8) == "scan_int8_128_by4"
    assert kernel(H200, 8, d=32) == "scan_int8_32_by4"
    assert kernel(H200, 8, d=50) == "scan_int8_columns"


@pytest.mark.parametrize("count", [2, 8, 9, 16, 17, 32, 33, 100])
def test_tensor_groups_cover_every_query_and_share_a_block(count: int) -> None:
    found = plan.retrieval(H200, "int8", 10**7, 128, count, aligned=True, exact=False)
    assert found.rows >= count
    assert found.rows == found.grid[1] * found.groups * 8
    assert found.rows - count < found.groups * 8
    assert found.lists == found.grid[0] * (H200.warps // found.groups)
    if 8 < count <= 32:
        assert found.grid[1] == 1  # one block meets all: items are read from memory once


@pytest.mark.parametrize("k", [1, 10, 100, 1024])
@pytest.mark.parametrize("m", [1, 31, 64, 5000, 67_584])
def test_rounds_of_sorts_end_with_one_block_and_lose_nothing(m: int, k: int) -> None:
    rounds = plan.sorting(m, k)
    assert rounds[0].m == m
    assert rounds[-1].blocks == 1
    for before, after in pairwise(rounds):
        assert after.m == before.blocks * before.keep < before.m
    for each in rounds:
        assert each.blocks * each.chunk >= each.m
        assert each.keep == k <= each.chunk // 2 or each.chunk == plan.LARGEST_CHUNK


def test_more_than_a_block_can_sort_is_refused() -> None:
    with pytest.raises(KernelError, match="at most 1024"):
        plan.check(10, 1025)
    with pytest.raises(KernelError, match="indexes at most"):
        plan.check(2**32, 1)


def test_rows_whose_bytes_are_no_multiple_of_16_take_the_kernel_for_columns() -> None:
    assert plan.bag("float32", 50, aligned=True)[0].name == "bag_float32_columns"
    assert plan.bag("float32", 52, aligned=True) == (catalogue.bag("float32", 52), 13)
    assert plan.bag("int8", 64, aligned=False)[0].name == "bag_int8_columns"
