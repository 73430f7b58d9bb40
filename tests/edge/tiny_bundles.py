"""Tiny real bundles: a sequence encoder and a ranker, made node by node, and what they compute."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tierline_kernels import dequantize_rows, quantize_rows
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.carried import Carried
from tierline_serving.neighbours import LEVELS, NeighbourTable, starts_of
from tierline_serving.signing import Signer

ITEMS, HISTORY, DIM, FEATURES = 40, 6, 8, 4
OPSET, IR = 18, 9
NEAR_FILES = ("counts", "ids", "codes", "levels")
NEAR: Any = {"weight": 0.7, "decay": 0.6, "window": 5, "floor": 1e-3}

Floats = NDArray[np.float32]

PART = Carried.chosen(  # of the items, for an edge that does not carry all
    np.array([2, 3, 5, 8, 13, 21, 34]),
    np.random.default_rng(4).random(ITEMS + 1) ** 3,
    decay=0.6, window=5, above=0.2,
)  # fmt: skip


def item_rows() -> Floats:
    """float32 [ITEMS + 1, DIM], row 0 all zeros."""
    rows = np.random.default_rng(1).standard_normal((ITEMS + 1, DIM)).astype(np.float32)
    rows[0] = 0.0
    return rows


def carried_rows(carried: Carried) -> Floats:
    """The rows of a table with part of the items: padding, theirs, and one for all others."""
    rows = item_rows()
    others = np.setdiff1d(np.arange(1, ITEMS + 1), carried.ids)
    return np.concatenate((rows[:1], rows[carried.ids], rows[others].mean(axis=0)[None]))


def encoder_weights() -> tuple[Floats, Floats]:
    """The encoder's matrix [DIM, DIM] and its uncertainty head [DIM, 1]."""
    dice = np.random.default_rng(2)
    return (
        dice.standard_normal((DIM, DIM)).astype(np.float32),
        dice.standard_normal((DIM, 1)).astype(np.float32),
    )


def encoder(hidden: str = "hidden") -> bytes:
    """hidden = tanh(mean of the real rows · W), uncertainty = sigmoid(hidden · v)."""
    matrix, head = encoder_weights()
    nodes = [
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["real"]),
        helper.make_node("ReduceSum", ["real", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["length"], keepdims=1),
        helper.make_node("Add", ["length", "tiny"], ["divisor"]),
        helper.make_node("Div", ["total", "divisor"], ["mean"]),
        helper.make_node("MatMul", ["mean", "matrix"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], [hidden]),
        helper.make_node("MatMul", [hidden, "head"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["doubt"]),
        helper.make_node("Squeeze", ["doubt", "middle"], ["uncertainty"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
        "tiny": np.array([[1e-6]], np.float32),
        "matrix": matrix,
        "head": head,
    }
    inputs: dict[str, list[Any]] = {
        "embedded": ["requests", HISTORY, DIM],
        "mask": ["requests", HISTORY],
    }
    outputs: dict[str, list[Any]] = {hidden: ["requests", DIM], "uncertainty": ["requests"]}
    return graph(nodes, inputs, outputs, weights)


def ranker(last: str = "Identity") -> bytes:
    """scores = last(user · item) and uncertainty = sigmoid(scores), both [rows]."""
    nodes = [
        helper.make_node("Mul", ["user", "item"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["sums"], keepdims=0),
        helper.make_node(last, ["sums"], ["scores"]),
        helper.make_node("Sigmoid", ["scores"], ["uncertainty"]),
    ]
    shape = ["rows", FEATURES]
    outputs: dict[str, list[Any]] = {"scores": ["rows"], "uncertainty": ["rows"]}
    return graph(nodes, {"user": shape, "item": shape}, outputs, {"axis": np.array([1], np.int64)})


def graph(
    nodes: list[Any],  # Any: onnx's protobuf classes are untyped
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
    weights: Mapping[str, NDArray[Any]],
) -> bytes:
    """The bytes of an ONNX model whose inputs and outputs are float32."""
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(model.SerializeToString())


def write_sequence(
    folder: Path,
    *,
    int8: bool = False,
    neighbours: bool = False,
    carried: Carried | None = None,
    signer: Signer | None = None,
    model: bytes | None = None,
    files: Mapping[str, bytes] | None = None,
    **changes: object,
) -> Bundle:
    """A bundle of kind sequence with a prior; ``changes`` replace entries of the manifest."""
    rows = item_rows() if carried is None else carried_rows(carried)
    if int8:
        table = quantize_rows(rows)
        arrays = {"items.codes.npy": npy(table.codes), "items.scales.npy": npy(table.scales)}
        listed = {"codes": "items.codes.npy", "scales": "items.scales.npy"}
    else:
        arrays, listed = {"items.npy": npy(rows)}, {"values": "items.npy"}
    sequence: dict[str, object] = {"items": ITEMS, "max_history": HISTORY, "dim": DIM}
    if neighbours:
        near = neighbour_table()
        names = {name: f"near.{name}.npy" for name in NEAR_FILES}
        arrays |= {path: npy(getattr(near, name)) for name, path in names.items()}
        sequence["neighbours"] = {**names, **NEAR}
    if carried is not None:
        arrays |= {f"carried.{part}.npy": npy(getattr(carried, part)) for part in ("ids", "lost")}
        sequence["carried"] = {
            "items": carried.ids.size, "ids": "carried.ids.npy", "lost": "carried.lost.npy",
            "decay": carried.decay, "window": carried.window, "above": carried.above,
        }  # fmt: skip
    prior = np.concatenate(([-np.inf], np.linspace(1, 0, ITEMS))).astype(np.float32)
    manifest: dict[str, object] = {
        **_about("ranker", "sequence"),
        "inputs": [
            _tensor("embedded", ["requests", HISTORY, DIM], "query"),
            _tensor("mask", ["requests", HISTORY], "query"),
        ],
        "outputs": [_tensor("hidden", ["requests", DIM]), _tensor("uncertainty", ["requests"])],
        "sequence": {**sequence, "table": "items"},
        "tables": {"items": listed},
        "prior": "prior.npy",
        **changes,
    }
    content = {"model.onnx": model or encoder(), "prior.npy": npy(prior), **arrays, **(files or {})}
    return write_bundle(content, manifest, folder, signer)


def write_tensor(folder: Path, *, model: bytes | None = None, **changes: object) -> Bundle:
    """A bundle of kind tensor: user and item of FEATURES numbers each."""
    manifest: dict[str, object] = {
        **_about("taste", "tensor"),
        "inputs": [
            _tensor("user", [FEATURES], "query"),
            _tensor("item", ["rows", FEATURES], "candidate"),
        ],
        "outputs": [_tensor("scores", ["rows"]), _tensor("uncertainty", ["rows"])],
        **changes,
    }
    return write_bundle({"model.onnx": model or ranker()}, manifest, folder)


def neighbour_table() -> NeighbourTable:
    """Up to three neighbours of every item: what ``write_sequence(neighbours=True)`` packs."""
    dice = np.random.default_rng(3)
    counts = dice.integers(0, 4, ITEMS + 1).astype(np.uint8)
    counts[0] = 0
    pairs = int(counts.sum())
    return NeighbourTable(
        starts=starts_of(counts),
        ids=dice.integers(1, ITEMS + 1, pairs).astype(np.uint16),
        codes=dice.integers(0, LEVELS, pairs).astype(np.uint8),
        levels=np.linspace(0.01, 1, LEVELS, dtype=np.float32),
        **NEAR,
    )


def gains(history: list[int]) -> Floats:
    """What the neighbours add to every item's score for one history: float32 [ITEMS + 1]."""
    found = np.zeros((1, ITEMS + 1), np.float32)
    neighbour_table().boosts([np.array(history, np.int64)]).add_to(found)
    added: Floats = found[0]
    return added


def expected_state(history: NDArray[np.int64], rows: Floats) -> tuple[Floats, float]:
    """What the encoder must answer for one history, by NumPy in double precision."""
    matrix, head = encoder_weights()
    recent = rows[history[-HISTORY:]].astype(np.float64)
    hidden = np.tanh((recent.sum(axis=0) / (len(recent) + 1e-6)) @ matrix.astype(np.float64))
    doubt = 1.0 / (1.0 + np.exp(-float(hidden @ head[:, 0])))
    return hidden.astype(np.float32), doubt


def int8_rows() -> Floats:
    """What the int8 table of ``write_sequence(int8=True)`` stands for."""
    return dequantize_rows(quantize_rows(item_rows()))


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _about(model: str, kind: str) -> dict[str, object]:
    return {
        "format": 1,
        "model": model,
        "version": "1",
        "kind": kind,
        "tier": "edge",
        "created": "2026-11-21T00:00:00Z",
        "runtime": {
            "engine": "onnx",
            "entry": "model.onnx",
            "opset": OPSET,
            "precision": "float32",
        },
        "uncertainty": {"output": "uncertainty", "threshold": 0.6},
    }


def _tensor(name: str, shape: list[Any], role: str | None = None) -> dict[str, object]:
    spec: dict[str, object] = {"name": name, "dtype": "float32", "shape": shape}
    return spec if role is None else {**spec, "role": role}
