"""The two workloads every server is measured with: their ONNX graphs, bundles and request bytes.

W1 "rank 100": concat(user 64, item 64) → MLP 128-256-128-1 over the candidates, float32 or static
int8 (QDQ: with dynamic int8 a row's score would depend on its batch-mates). W2 "seq rank":
SASRec-like, history 50, two blocks, d = 64, two heads, and the inner product with candidates of
12,101 items. Weights are random with a fixed seed. A peer gets the whole graph and the arrays' raw
bytes; ours gets the same weights as a bundle and native frames.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tierline.wire import CANDIDATE_IDS, ScoreRequest, encode_request
from tierline_serving.bundle import write_bundle

SEED = 7
LAYERS, FEATURES = (128, 256, 128, 1), 64
ITEMS, HISTORY, DIM, HEADS, BLOCKS = 12_101, 50, 64, 2, 2
CANDIDATES = 100
OPSET = 18
NAMES = ("w1_fp32", "w1_int8", "w2_fp32")

Feed = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One model as every server takes it."""

    name: str
    onnx: Path  # the whole graph, for the bare session and for peers
    bundle: Path  # the same weights, for Tierline

    def arrays(self, candidates: int = CANDIDATES) -> tuple[Feed, Feed]:
        """One request: its query and its candidates."""
        dice = np.random.default_rng(SEED)
        if self.name.startswith("w1"):
            user = dice.standard_normal(FEATURES, np.float32)
            return {"user": user}, {
                "item": dice.standard_normal((candidates, FEATURES), np.float32)
            }
        history = dice.integers(1, ITEMS + 1, HISTORY)
        return {"history": history}, {CANDIDATE_IDS: dice.integers(1, ITEMS + 1, candidates)}

    def frame(self, candidates: int = CANDIDATES) -> bytes:
        """The request as Tierline's own frame."""
        query, rows = self.arrays(candidates)
        return b"".join(encode_request(ScoreRequest(self.name, query, rows)))

    def raw(self, candidates: int = CANDIDATES) -> bytes:
        """The request as bare bytes: the query's array, then the candidates'."""
        query, rows = self.arrays(candidates)
        return b"".join(array.tobytes() for array in (*query.values(), *rows.values()))

    def feed(self, batch: int = 1) -> Feed:
        """What the whole graph takes for so many requests."""
        query, rows = self.arrays()
        if self.name.startswith("w1"):
            one = {"user": np.tile(query["user"], (CANDIDATES, 1)), "item": rows["item"]}
        else:
            one = {"history": query["history"][None], "id": rows[CANDIDATE_IDS][None]}
        return {name: np.concatenate([array] * batch) for name, array in one.items()}


def build(folder: Path) -> dict[str, Workload]:
    """Write every graph and bundle below ``folder``; what is there already is taken as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {name: folder / f"{name}.onnx" for name in NAMES}
    if not graphs["w1_fp32"].exists():
        onnx.save(_mlp(np.random.default_rng(SEED)), graphs["w1_fp32"])
    if not graphs["w1_int8"].exists():
        _quantize(graphs["w1_fp32"], graphs["w1_int8"])
    encoder = folder / "w2_encoder.onnx"
    if not graphs["w2_fp32"].exists():
        from sequence_model import write_graphs

        write_graphs(encoder, graphs["w2_fp32"], folder / "w2_items.npy")
    bundles = {
        name: write_bundle({"model.onnx": graphs[name]}, _tensor_manifest(name), folder / "bundles")
        for name in NAMES
        if name.startswith("w1")
    }
    bundles["w2_fp32"] = write_bundle(
        {"model.onnx": encoder, "items.npy": folder / "w2_items.npy"},
        _sequence_manifest("w2_fp32"),
        folder / "bundles",
    )
    return {
        name: Workload(name=name, onnx=graphs[name], bundle=bundles[name].path) for name in NAMES
    }


def one_thread() -> onnxruntime.SessionOptions:
    """The options every session of this benchmark is opened with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def npy(array: NDArray[np.generic]) -> bytes:
    """The bytes of an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _mlp(dice: np.random.Generator) -> onnx.ModelProto:
    nodes = [helper.make_node("Concat", ["user", "item"], ["x0"], axis=1)]
    weights = [numpy_helper.from_array(np.array([1], np.int64), "axis")]
    for i, (wide, narrow) in enumerate(itertools.pairwise(LAYERS)):
        matrix = (dice.standard_normal((wide, narrow)) / np.sqrt(wide)).astype(np.float32)
        bias = np.zeros(narrow, np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{i}"),
            numpy_helper.from_array(bias, f"b{i}"),
        ]
        last = i == len(LAYERS) - 2
        out = "column" if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"x{i + 1}"]))
    nodes.append(helper.make_node("Squeeze", ["column", "axis"], ["scores"]))
    shape = ["rows", FEATURES]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("user", "item")]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])]
    graph = helper.make_graph(nodes, "ranker", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def _quantize(source: Path, target: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Random(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            dice = np.random.default_rng(SEED)
            self._left = [
                {
                    n: dice.standard_normal((CANDIDATES, FEATURES), np.float32)
                    for n in ("user", "item")
                }
                for _ in range(32)
            ]

        def get_next(self) -> Feed | None:
            return self._left.pop() if self._left else None

    quantize_static(source, target, Random(), quant_format=QuantFormat.QDQ)


def _tensor_manifest(name: str) -> dict[str, object]:
    return {
        **_about(name, "tensor"),
        "inputs": [
            {"name": "user", "dtype": "float32", "shape": [FEATURES], "role": "query"},
            {"name": "item", "dtype": "float32", "shape": ["rows", FEATURES], "role": "candidate"},
        ],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
    }


def _sequence_manifest(name: str) -> dict[str, object]:
    shapes = {"embedded": ["requests", HISTORY, DIM], "mask": ["requests", HISTORY]}
    return {
        **_about(name, "sequence"),
        "inputs": [
            {"name": each, "dtype": "float32", "shape": shape, "role": "query"}
            for each, shape in shapes.items()
        ],
        "outputs": [{"name": "hidden", "dtype": "float32", "shape": ["requests", DIM]}],
        "sequence": {"items": ITEMS, "max_history": HISTORY, "dim": DIM, "table": "items"},
        "tables": {"items": {"values": "items.npy"}},
    }


def _about(name: str, kind: str) -> dict[str, object]:
    return {
        "format": 1,
        "model": name,
        "version": "1",
        "kind": kind,
        "tier": "edge",
        "created": "2026-11-21T00:00:00Z",
        "runtime": {
            "engine": "onnx",
            "entry": "model.onnx",
            "opset": OPSET,
            "precision": "int8-static" if name.endswith("int8") else "float32",
        },
    }
