"""The whole way of a recommendation as one operation: history rows, encoder, top-k on one stream.

With ONNX Runtime's CUDA provider the encoder is an ONNX graph; without it the history is pooled by
the bag kernel, and the case's name says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
from cases import Case, Sizes, scores_of, sectors
from numpy.typing import NDArray

from tierline_kernels.cuda.device import Bag, Bags, DeviceTable, Retrieval
from tierline_kernels.cuda.driver import Driver
from tierline_kernels.layout import RowwiseInt8, dequantize_rows

HISTORY = 50


def recommend_cases(
    driver: Driver, table: DeviceTable, host: RowwiseInt8, sizes: Sizes
) -> Iterator[Case]:
    """Pooled histories, and encoded ones where ONNX Runtime can do so."""
    yield pooled_case(driver, table, host, sizes)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        yield encoded_case(driver, host, sizes)
    else:
        print("ONNX Runtime has no CUDA provider here: look-up → ONNX → top-k is not measured.")


def _moved(host: RowwiseInt8, history: int) -> float:
    n, d = host.shape
    return float((n + history) * (sectors(d) + 4))


def _check_best(
    host: RowwiseInt8, state: NDArray[Any], values: NDArray[Any], indices: NDArray[Any]
) -> None:
    """The answer's scores are its items', and no item of a sample that was left out beats them."""
    np.testing.assert_array_equal(scores_of(host, state, indices), values)
    sample = np.unique(np.random.default_rng(5).integers(0, host.shape[0], 100_000))
    better = sample[scores_of(host, state, sample) > values[-1]]
    assert np.isin(better, indices).all(), "an item left out beats the last one"


def pooled_case(driver: Driver, table: DeviceTable, host: RowwiseInt8, sizes: Sizes) -> Case:
    """The mean of a history's rows, then the best items for it: two operations, one graph."""
    rng = np.random.default_rng(4)
    history = min(HISTORY, sizes.length)
    offsets = driver.upload(np.array([0, history]), np.int64)
    plans = []
    for _ in range(sizes.sets):
        ids = rng.integers(0, host.shape[0], history)
        state = driver.empty(host.shape[1], np.float32)
        bags = Bags(driver.upload(ids, np.int64), history, offsets, 1, mean=True)
        plans.append((ids, state, Bag(table, bags, state), Retrieval(table, state, 1, sizes.k)))

    def run(plan: Any) -> None:
        plan[2].run()
        plan[3].run()

    def check() -> None:
        ids, state, _, retrieval = plans[0]
        run(plans[0])
        values, indices = retrieval.answer()
        got = driver.download(state, host.shape[1], np.float32)
        rows = RowwiseInt8(host.codes[ids], host.scales[ids])
        np.testing.assert_allclose(got, dequantize_rows(rows).mean(axis=0), atol=1e-4)
        _check_best(host, got, values[0], indices[0])

    return Case(
        "recommend pooled", f"history {history}, {host.shape[0]} items, no ONNX",
        _moved(host, history), None, [lambda plan=plan: run(plan) for plan in plans], check,
    )  # fmt: skip


def encoder(d: int) -> bytes:
    """An ONNX graph as a sequence bundle's: masked mean of the rows, then one dense layer."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(6).standard_normal((d, d)).astype(np.float32) / d**0.5
    axes = numpy_helper.from_array(np.array([1]), "axes")
    last = numpy_helper.from_array(np.array([2]), "last")
    nodes = [
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["embedded", "wide"], ["kept"]),
        helper.make_node("ReduceMean", ["kept", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weight"], ["hidden"]),
    ]
    single = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "encoder",
        [
            helper.make_tensor_value_info("embedded", single, ["B", "L", d]),
            helper.make_tensor_value_info("mask", single, ["B", "L"]),
        ],
        [helper.make_tensor_value_info("hidden", single, ["B", d])],
        [axes, last, numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def encoded_case(driver: Driver, host: RowwiseInt8, sizes: Sizes) -> Case:
    """Look-up → ONNX → top-k as the edge runtime plans it (``Recommendation``)."""
    from tierline_edge.device import DeviceItems, Recommendation
    from tierline_edge.session import Session

    session = Session(encoder(host.shape[1]), provider="cuda")
    items = DeviceItems(host, driver)
    session.share_stream(driver.stream_handle)
    plan = Recommendation(items, session, ["hidden"], (1, HISTORY), sizes.k, HISTORY)
    ids = np.random.default_rng(4).integers(1, host.shape[0], (1, HISTORY))
    plan.fill(ids, (ids[0], np.array([0, HISTORY])))

    def check() -> None:
        plan.run()
        (state,), best = plan.answer()
        np.testing.assert_array_equal(scores_of(host, state[0], best.indices[0]), best.values[0])
        assert not np.isin(best.indices[0], ids).any()

    return Case(
        "recommend onnx", f"history {HISTORY}, {host.shape[0]} items", _moved(host, HISTORY),
        None, [plan.run], check,
    )  # fmt: skip
