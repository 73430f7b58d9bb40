"""Small valid bundles to check, damage and serve: one of kind tensor, one of kind sequence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierline.certificate import ESCALATE_ALL, KEEP_ALL, Certificate, CurvePoint, Subject
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.signing import Signer

ITEMS, DIM, MAX_HISTORY = 6, 4, 5
MODEL = "model.onnx"  # arbitrary bytes: nothing at this level runs the model

CERTIFICATE = Certificate(
    loss="L_agree@10",
    method="hoeffding-bentkus",
    slot="test",
    created="2026-11-21T04:00:00Z",
    alpha=0.05,
    delta=0.05,
    n=4000,
    threshold=0.31,
    curve=(
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=0.31, bound=0.06, escalation=0.4),
        CurvePoint(threshold=KEEP_ALL, bound=0.25, escalation=0.0),
    ),
    subject=Subject(model="a" * 64, catalogue="b" * 64, quantization="c" * 64, cloud="d" * 64),
)


def npy(array: NDArray[np.generic]) -> bytes:
    """An array as the bytes of an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def tensor_manifest(version: str = "1") -> dict[str, object]:
    """A manifest of kind tensor, without files."""
    return {
        "format": 1,
        "model": "clicks",
        "version": version,
        "kind": "tensor",
        "tier": "edge",
        "created": "2026-11-21T04:00:00Z",
        "runtime": {"engine": "onnx", "entry": MODEL, "opset": 18, "precision": "float32"},
        "inputs": [
            {"name": "user", "dtype": "float32", "shape": [3], "role": "query"},
            {"name": "item", "dtype": "float32", "shape": ["rows", 2], "role": "candidate"},
        ],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
    }


def sequence_manifest(version: str = "1") -> dict[str, object]:
    """A manifest of kind sequence that uses every field, without files."""
    embedded = ["requests", MAX_HISTORY, DIM]
    return {
        "format": 1,
        "model": "ranker",
        "version": version,
        "kind": "sequence",
        "tier": "edge",
        "created": "2026-11-21T04:00:00Z",
        "runtime": {"engine": "onnx", "entry": MODEL, "opset": 18, "precision": "int8-static"},
        "inputs": [{"name": "embedded", "dtype": "float32", "shape": embedded, "role": "query"}],
        "outputs": [{"name": "hidden", "dtype": "float32", "shape": ["requests", DIM]}],
        "sequence": {
            "items": ITEMS,
            "max_history": MAX_HISTORY,
            "dim": DIM,
            "table": "items",
            "neighbours": {
                "counts": "near/counts.npy",
                "ids": "near/ids.npy",
                "codes": "near/codes.npy",
                "levels": "near/levels.npy",
                "weight": 0.9,
                "decay": 0.6,
                "window": 20,
                "floor": 1e-3,
            },
        },
        "tables": {
            "items": {
                "codes": "tables/codes.npy",
                "scales": "tables/scales.npy",
                "biases": "tables/biases.npy",
            }
        },
        "uncertainty": {"output": "uncertainty", "threshold": 0.31},
        "certificate": CERTIFICATE.to_json(),
        "prior": "prior.npy",
        "golden": {"requests": "golden.req", "replies": "golden.rep", "tolerance": 1e-4},
        "metrics": {"ndcg@10": {"mean": 0.12, "ci95": [0.11, 0.13]}, "note": "naïve"},
    }


def golden_pairs() -> tuple[list[ScoreRequest], list[ScoreReply]]:
    """Two golden requests, one of each form, and their replies."""
    history = {"history": np.array([1, 2], np.int64)}
    candidates = {CANDIDATE_IDS: np.array([3, 4, 5], np.int64)}
    scores = np.array([3.0, 2.0, 1.0], np.float32)
    items = np.array([5, 4, 3], np.int64)
    requests = [
        ScoreRequest(model="ranker", query=history, candidates=candidates),
        ScoreRequest(model="ranker", query=history, k=3),
    ]
    replies = [
        ScoreReply(model="ranker", bundle="1@golden", scores=scores[::-1].copy(), uncertainty=0.2),
        ScoreReply(model="ranker", bundle="1@golden", scores=scores, items=items, uncertainty=0.2),
    ]
    return requests, replies


def neighbours() -> dict[str, NDArray[np.generic]]:
    """The neighbours of every item, as a bundle stores them."""
    return {
        "counts": np.array([0, 2, 1, 0, 3, 1, 2], np.uint8),
        "ids": np.array([2, 3, 1, 1, 2, 6, 4, 1, 5], np.uint16),
        "codes": np.array([9, 200, 255, 0, 1, 2, 3, 40, 50], np.uint8),
        "levels": np.linspace(0.1, 2, 256, dtype=np.float32),
    }


def sequence_files() -> dict[str, Path | bytes]:
    """The files of the sequence bundle."""
    rng = np.random.default_rng(7)
    prior = np.arange(ITEMS + 1, dtype=np.float32)
    prior[0] = -np.inf
    requests, replies = golden_pairs()
    codes = rng.integers(-128, 128, (ITEMS + 1, DIM)).astype(np.int8)
    return {
        MODEL: b"a graph of some kind" * 20,
        "tables/codes.npy": npy(codes),
        "tables/scales.npy": npy(rng.random(ITEMS + 1).astype(np.float32)),
        "tables/biases.npy": npy(rng.random(ITEMS + 1).astype(np.float32)),
        **{f"near/{name}.npy": npy(array) for name, array in neighbours().items()},
        "prior.npy": npy(prior),
        "golden.req": pack_requests(requests),
        "golden.rep": pack_replies(replies),
    }


def write_tensor_bundle(
    destination: Path, *, signer: Signer | None = None, version: str = "1"
) -> Bundle:
    """A valid bundle of kind tensor in ``destination``."""
    return write_bundle({MODEL: b"weights"}, tensor_manifest(version), destination, signer)


def write_sequence_bundle(
    destination: Path, *, signer: Signer | None = None, version: str = "1"
) -> Bundle:
    """A valid bundle of kind sequence, with tables, prior and golden requests."""
    return write_bundle(sequence_files(), sequence_manifest(version), destination, signer)
