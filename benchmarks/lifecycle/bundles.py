"""Bundles to swap: one small sequence model per seed, with golden answers, true or false ones."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_edge.scorer import load_scorer
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.signing import Trust

MODEL = "ranker"
ITEMS, HISTORY, DIM, LAYERS = 4000, 20, 256, 8  # 4 MB of rows, 2 MB of weights
QUERY = [3, 7, 11]
CANDIDATES = list(range(1, 101))
UNSIGNED = Trust(allow_unsigned=True)


@dataclass(frozen=True)
class Made:
    """A bundle, and what it answers to QUERY and CANDIDATES."""

    bundle: Bundle
    scores: NDArray[np.float32]


def make(folder: Path, version: str, *, seed: int, is_true: bool = True) -> Made:
    """Write a bundle of version ``version``; with ``is_true`` False its golden answers are wrong,
    so that it is refused only after it was loaded."""
    files = _files(seed)
    plain = write_bundle(files, _manifest(version), folder / "plain")
    request = ScoreRequest(
        model=MODEL,
        query={"history": np.array(QUERY, np.int64)},
        candidates={CANDIDATE_IDS: np.array(CANDIDATES, np.int64)},
    )
    (reply,) = load_scorer(plain, threads=1).score([request])
    expected = reply.scores if is_true else reply.scores + 1.0
    golden = ScoreReply(
        model=MODEL, bundle=reply.bundle, scores=expected, uncertainty=reply.uncertainty
    )
    files |= {
        "golden.requests.bin": pack_requests([request]),
        "golden.replies.bin": pack_replies([golden]),
    }
    listed = {
        "requests": "golden.requests.bin",
        "replies": "golden.replies.bin",
        "tolerance": 1e-4,
    }
    bundle = write_bundle(files, {**_manifest(version), "golden": listed}, folder)
    return Made(bundle, np.array(reply.scores))


def _files(seed: int) -> dict[str, Path | bytes]:
    dice = np.random.default_rng(seed)
    rows = dice.standard_normal((ITEMS + 1, DIM)).astype(np.float32)
    rows[0] = 0.0
    prior = np.concatenate(([-np.inf], np.linspace(1, 0, ITEMS))).astype(np.float32)
    return {"model.onnx": _encoder(dice), "items.npy": _npy(rows), "prior.npy": _npy(prior)}


def _encoder(dice: np.random.Generator) -> bytes:
    """hidden = tanh(… tanh(mean of the real rows · W₁) …), uncertainty = sigmoid(hidden · v)."""
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["mask", "last"], ["column"]),
        node("Mul", ["embedded", "column"], ["real"]),
        node("ReduceSum", ["real", "middle"], ["total"], keepdims=0),
        node("ReduceSum", ["mask", "middle"], ["length"], keepdims=1),
        node("Add", ["length", "tiny"], ["divisor"]),
        node("Div", ["total", "divisor"], ["state0"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
        "tiny": np.array([[1e-6]], np.float32),
        "head": dice.standard_normal((DIM, 1)).astype(np.float32) / DIM,
    }
    for layer in range(LAYERS):
        name, after = f"w{layer}", "hidden" if layer == LAYERS - 1 else f"state{layer + 1}"
        weights[name] = dice.standard_normal((DIM, DIM)).astype(np.float32) / np.float32(DIM**0.5)
        nodes += [
            node("MatMul", [f"state{layer}", name], [f"mixed{layer}"]),
            node("Tanh", [f"mixed{layer}"], [after]),
        ]
    nodes += [
        node("MatMul", ["hidden", "head"], ["logit"]),
        node("Sigmoid", ["logit"], ["doubt"]),
        node("Squeeze", ["doubt", "middle"], ["uncertainty"]),
    ]
    shapes = {"embedded": ["requests", HISTORY, DIM], "mask": ["requests", HISTORY]}
    outputs = {"hidden": ["requests", DIM], "uncertainty": ["requests"]}
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(array, n) for n, array in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def _manifest(version: str) -> dict[str, object]:
    def tensor(name: str, shape: list[object], **role: str) -> dict[str, object]:
        return {"name": name, "dtype": "float32", "shape": shape, **role}

    return {
        "format": 1,
        "model": MODEL,
        "version": version,
        "kind": "sequence",
        "tier": "edge",
        "created": "2026-11-21T00:00:00Z",
        "runtime": {
            "engine": "onnx",
            "entry": "model.onnx",
            "opset": 18,
            "precision": "float32",
        },
        "inputs": [
            tensor("embedded", ["requests", HISTORY, DIM], role="query"),
            tensor("mask", ["requests", HISTORY], role="query"),
        ],
        "outputs": [tensor("hidden", ["requests", DIM]), tensor("uncertainty", ["requests"])],
        "sequence": {"items": ITEMS, "max_history": HISTORY, "dim": DIM, "table": "items"},
        "tables": {"items": {"values": "items.npy"}},
        "uncertainty": {"output": "uncertainty", "threshold": 1.0},
        "prior": "prior.npy",
    }


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
