"""What an embedded call costs beyond the bare ONNX session: the same model, inputs and thread."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import tierline
from tierline_serving.bundle import write_bundle

LAYERS = (128, 256, 128, 1)
CANDIDATES, FEATURES = 100, 64
BLOCK = 200  # calls a sample: bare and embedded take turns, so that drift hits both


def embedded_overhead(rng: np.random.Generator, repeats: int) -> dict[str, float]:
    """Median µs a call of the bare session, of an embedded call, and of the difference."""
    with tempfile.TemporaryDirectory() as folder:
        model = ranker(rng).SerializeToString()
        bundle = write_bundle({"model.onnx": model}, manifest(), Path(folder))
        query = rng.standard_normal(FEATURES, np.float32)
        items = rng.standard_normal((CANDIDATES, FEATURES), np.float32)
        feed = {"user": np.tile(query, (CANDIDATES, 1)), "item": items}
        session = onnxruntime.InferenceSession(model, one_thread())
        place = f"embedded:{bundle.path}"
        with tierline.Client(edge=[place], allow_unsigned=True, deadline=10.0) as client:
            bare = lambda: session.run(None, feed)  # noqa: E731
            call = lambda: client.score(  # noqa: E731
                "ranker", query={"user": query}, candidates={"item": items}
            )
            np.testing.assert_allclose(call().scores, bare()[0], rtol=1e-5, atol=1e-5)
            pairs = [(block_us(bare), block_us(call)) for _ in range(4 * repeats)][repeats:]
    return {
        "bare_session_us": statistics.median(one for one, _ in pairs),
        "embedded_call_us": statistics.median(two for _, two in pairs),
        "embedded_overhead_us": statistics.median(two - one for one, two in pairs),
    }


def block_us(one: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(BLOCK):
        one()
    return (time.perf_counter() - begun) / BLOCK * 1e6


def one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def ranker(rng: np.random.Generator) -> onnx.ModelProto:
    """concat(user, item) → 256 → 128 → 1, ReLU between: the W1 ranker of docs/serving."""
    nodes = [helper.make_node("Concat", ["user", "item"], ["x0"], axis=1)]
    weights = []
    for i, (wide, narrow) in enumerate(itertools.pairwise(LAYERS)):
        matrix = (rng.standard_normal((wide, narrow)) / np.sqrt(wide)).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{i}"),
            numpy_helper.from_array(np.zeros(narrow, np.float32), f"b{i}"),
        ]
        last = i == len(LAYERS) - 2
        out = "column" if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"x{i + 1}"]))
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes.append(helper.make_node("Squeeze", ["column", "axis"], ["scores"]))
    shape = ["rows", FEATURES]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("user", "item")]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])]
    graph = helper.make_graph(nodes, "ranker", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def manifest() -> dict[str, object]:
    return {
        "format": 1,
        "model": "ranker",
        "version": "1",
        "kind": "tensor",
        "tier": "edge",
        "created": "2026-11-21T00:00:00Z",
        "runtime": {"engine": "onnx", "entry": "model.onnx", "opset": 18, "precision": "float32"},
        "inputs": [
            {"name": "user", "dtype": "float32", "shape": [FEATURES], "role": "query"},
            {"name": "item", "dtype": "float32", "shape": ["rows", FEATURES], "role": "candidate"},
        ],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
    }
