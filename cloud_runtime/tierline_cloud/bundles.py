"""Pack what the factory made: a bundle for the edge, one for the cloud, golden replies in both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tierline.wire import ScoreReply, ScoreRequest
from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation.ranking import top_items
from tierline_cloud.export import OPSET, EdgeOutputs, EdgeSession, Floats
from tierline_cloud.factory import Factory
from tierline_cloud.models.sasrec import SASRec
from tierline_kernels import RowwiseInt8, dot_topk
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.manifest import utc_instant
from tierline_serving.signing import Signer

GOLDEN_USERS, GOLDEN_K, GOLDEN_CANDIDATES = 6, 10, 20
# A float difference of 1e-7 between two CPUs can move one activation by a whole int8 step.
EDGE_TOLERANCE, CLOUD_TOLERANCE = 2e-2, 1e-4

Answers = Callable[[Ids], EdgeOutputs]  # left-padded ids of one request → its state
Retrieve = Callable[[Floats, Ids], tuple[NDArray[np.float32], Ids]]


def write_bundles(
    factory: Factory, *, model: str, destination: Path, signer: Signer | None, now: datetime
) -> dict[str, Bundle]:
    """Write both tiers' bundles under ``destination``; ``now`` (aware) dates and numbers them."""
    version = now.astimezone(UTC).strftime("%Y.%m.%d-%H%M%S")
    shared: dict[str, object] = {
        "format": 1,
        "model": model,
        "version": version,
        "kind": "sequence",
        "created": utc_instant(now),
        "prior": "prior.npy",
    }
    return {
        "edge": _edge(factory, shared, model, destination, signer),
        "cloud": _cloud(factory, shared, model, destination, signer),
    }


def _edge(
    factory: Factory,
    shared: dict[str, object],
    model: str,
    destination: Path,
    signer: Signer | None,
) -> Bundle:
    table, path = factory.table, factory.quantized.folder / "model.onnx"
    threshold = float(factory.calibrated.result["threshold"])
    session = EdgeSession(path, factory.rows)
    requests = golden_requests(factory, model)
    replies = [
        _reply(request, session.run, factory.rows, _int8_retrieval(table), factory, threshold)
        for request in requests
    ]
    dim, length = factory.recipe.edge.dim, factory.recipe.max_history
    manifest = {
        **shared,
        "tier": "edge",
        "runtime": {
            "engine": "onnx",
            "entry": "model.onnx",
            "opset": OPSET,
            "precision": "int8-static",
        },
        "inputs": [
            _tensor("embedded", ["requests", length, dim], role="query"),
            _tensor("mask", ["requests", length], role="query"),
        ],
        "outputs": [_tensor("hidden", ["requests", dim]), _tensor("uncertainty", ["requests"])],
        "sequence": _sequence(factory, dim, table="items"),
        "tables": {"items": {"codes": "items.codes.npy", "scales": "items.scales.npy"}},
        "uncertainty": {"output": "uncertainty", "threshold": threshold},
        "golden": _golden(EDGE_TOLERANCE),
        "metrics": {
            "test": factory.quantized.result["test"],
            "loss_against_float32": factory.quantized.result["loss_against_float32"],
            "batch_variance": factory.quantized.result["batch_variance"],
            "parity": factory.exported.result["parity"],
            "tiers": factory.evaluated.result,
        },
    }
    files = {
        "model.onnx": path,
        "items.codes.npy": _npy(table.codes),
        "items.scales.npy": _npy(table.scales),
        **_shared_files(factory, requests, replies),
    }
    return write_bundle(files, manifest, destination, signer)


def _cloud(
    factory: Factory,
    shared: dict[str, object],
    model: str,
    destination: Path,
    signer: Signer | None,
) -> Bundle:
    trained = factory.model(factory.cloud)
    table: Floats = trained.table.detach().numpy()
    requests = golden_requests(factory, model)
    replies = [
        _reply(request, cloud_answers(trained), table, _float_retrieval(table), factory, None)
        for request in requests
    ]
    manifest = {
        **shared,
        "tier": "cloud",
        "runtime": {
            "engine": "torch",
            "entry": "model.safetensors",
            "architecture": "sasrec",
            "config": trained.config.to_json(),
        },
        "sequence": _sequence(factory, trained.config.dim, table=None),
        "golden": _golden(CLOUD_TOLERANCE),
        "metrics": {
            "test": factory.cloud.result["test"],
            "baselines": factory.baselines.result,
            "minus_item_knn": factory.evaluated.result["cloud_minus_knn"],
        },
    }
    files = {
        "model.safetensors": factory.cloud.folder / "model.safetensors",
        **_shared_files(factory, requests, replies),
    }
    return write_bundle(files, manifest, destination, signer)


def cloud_answers(model: SASRec) -> Answers:
    """The torch model as something that answers left-padded ids, without an uncertainty."""

    def answers(ids: Ids) -> EdgeOutputs:
        with torch.inference_mode():
            hidden = model.hidden(torch.from_numpy(ids)).numpy()
        return EdgeOutputs(hidden=hidden, uncertainty=np.zeros(len(ids), np.float32))

    return answers


def golden_requests(factory: Factory, model: str) -> list[ScoreRequest]:
    """Both kinds of request for a few users of different history lengths, one of them empty."""
    histories = factory.split.test_history
    by_length = np.argsort(histories.lengths, kind="stable")
    chosen = by_length[np.linspace(0, by_length.size - 1, GOLDEN_USERS).astype(int)]
    known = [np.array(histories.of(int(user)), np.int64) for user in chosen]
    step = max(1, histories.n_items // GOLDEN_CANDIDATES)
    candidates = np.arange(1, histories.n_items + 1, step, dtype=np.int64)[:GOLDEN_CANDIDATES]
    requests = []
    for history in [np.zeros(0, np.int64), *known]:
        query = {"history": history}
        requests.append(ScoreRequest(model=model, query=query, k=GOLDEN_K))
        requests.append(ScoreRequest(model=model, query=query, candidates={"id": candidates}))
    return requests


def _reply(
    request: ScoreRequest,
    answers: Answers,
    rows: Floats,
    retrieve: Retrieve,
    factory: Factory,
    threshold: float | None,
) -> ScoreReply:
    """What a node must answer to a golden request. A bundle cannot contain its own id, so the
    reply names none."""
    history = request.query["history"].astype(np.int64)
    recent = history[-factory.recipe.max_history :]
    ids = np.zeros((1, factory.recipe.max_history), np.int64)
    ids[0, ids.shape[1] - recent.size :] = recent
    outputs = answers(ids)
    items: Ids | None = None
    if request.candidates is None:
        scores, items = retrieve(outputs.hidden, np.append(history, 0))
    else:
        scores = rows[request.candidates["id"].astype(np.int64)] @ outputs.hidden[0]
    return ScoreReply(
        model=request.model,
        bundle="golden",
        scores=scores,
        items=items,
        uncertainty=None if threshold is None else float(outputs.uncertainty[0]),
        threshold=threshold,
    )


def _int8_retrieval(table: RowwiseInt8) -> Retrieve:
    def retrieve(hidden: Floats, excluded: Ids) -> tuple[NDArray[np.float32], Ids]:
        offsets = np.array([0, excluded.size], np.int64)
        found = dot_topk(hidden, table, GOLDEN_K, exclude=(excluded, offsets), backend="reference")
        return found.values[0], found.indices[0]

    return retrieve


def _float_retrieval(table: Floats) -> Retrieve:
    def retrieve(hidden: Floats, excluded: Ids) -> tuple[NDArray[np.float32], Ids]:
        scores = hidden @ table.T
        scores[0, excluded] = -np.inf
        items = top_items(scores, GOLDEN_K)[0]
        best = np.where(items >= 0, scores[0, np.maximum(items, 0)], -np.inf)
        return best.astype(np.float32), items

    return retrieve


def _shared_files(
    factory: Factory, requests: list[ScoreRequest], replies: list[ScoreReply]
) -> dict[str, Path | bytes]:
    return {
        "prior.npy": factory.baselines.folder / "prior.npy",
        "golden.requests.bin": pack_requests(requests),
        "golden.replies.bin": pack_replies(replies),
    }


def _golden(tolerance: float) -> dict[str, object]:
    return {
        "requests": "golden.requests.bin",
        "replies": "golden.replies.bin",
        "tolerance": tolerance,
    }


def _sequence(factory: Factory, dim: int, *, table: str | None) -> dict[str, object]:
    spec: dict[str, object] = {
        "items": factory.split.train.n_items,
        "max_history": factory.recipe.max_history,
        "dim": dim,
    }
    return spec if table is None else {**spec, "table": table}


def _tensor(name: str, shape: list[str | int], *, role: str | None = None) -> dict[str, object]:
    spec: dict[str, object] = {"name": name, "dtype": "float32", "shape": shape}
    return spec if role is None else {**spec, "role": role}


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
