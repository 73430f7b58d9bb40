"""Pack what the factory made: a bundle for the edge, one for the cloud, golden replies in both."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from tierline.wire import ScoreReply, ScoreRequest
from tierline_cloud.carrying import PARTS as CARRIED_PARTS
from tierline_cloud.carrying import carried_document, carried_file
from tierline_cloud.certified import with_certificate
from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation.ranking import top_items
from tierline_cloud.export import OPSET, EdgeSession, Floats
from tierline_cloud.factory import Factory
from tierline_cloud.ladder import known_ladder
from tierline_cloud.models.blend import CloudModel
from tierline_cloud.models.near import PARTS, gains_document, neighbours_file
from tierline_cloud.models.sasrec import SASRec
from tierline_cloud.temperatures import temperatures
from tierline_kernels import dot_topk
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.carried import Carried
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.manifest import utc_instant
from tierline_serving.neighbours import NeighbourTable
from tierline_serving.signing import Signer

GOLDEN_USERS, GOLDEN_K, GOLDEN_CANDIDATES = 6, 10, 20
# A float difference of 1e-7 between two CPUs can move one activation by a whole int8 step.
EDGE_TOLERANCE, CLOUD_TOLERANCE = 2e-2, 1e-4


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
    # The edge's certificate names the cloud's bundle, so that one comes first.
    cloud = _cloud(factory, shared, model, destination, signer)
    return {"edge": _edge(factory, shared, model, destination, signer, cloud), "cloud": cloud}


def _edge(
    factory: Factory,
    shared: dict[str, object],
    model: str,
    destination: Path,
    signer: Signer | None,
    cloud: Bundle,
) -> Bundle:
    table, path = factory.table, factory.quantized.folder / "model.onnx"
    threshold = float(factory.calibrated.result["threshold"])
    session = EdgeSession(path, factory.rows)
    requests = golden_requests(factory, model)
    dim, length = factory.recipe.edge.dim, factory.recipe.max_history
    replies = [_edge_reply(request, session, factory, threshold) for request in requests]
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
        "sequence": {
            **_sequence(factory, dim, table="items"),
            **_neighbours(factory.near),
            **_carried(factory.carried),
        },
        "tables": {"items": {"codes": "items.codes.npy", "scales": "items.scales.npy"}},
        "uncertainty": {"output": "uncertainty", "threshold": threshold},
        "golden": _golden(EDGE_TOLERANCE),
        "metrics": _edge_metrics(factory),
    }
    files = {
        "model.onnx": path,
        "items.codes.npy": _npy(table.codes),
        "items.scales.npy": _npy(table.scales),
        **_neighbour_files(factory.near),
        **_carried_files(factory.carried),
        **_shared_files(factory, requests, replies),
    }
    certified = with_certificate(manifest, files, factory=factory, cloud=cloud)
    return write_bundle(files, certified, destination, signer)


def _edge_metrics(factory: Factory) -> dict[str, object]:
    ladder = known_ladder(factory)
    return {
        **({} if ladder is None else {"ladder": ladder}),
        "test": factory.quantized.result["test"],
        "loss_against_float32": factory.quantized.result["loss_against_float32"],
        "batch_variance": factory.quantized.result["batch_variance"],
        "parity": factory.exported.result["parity"],
        "tiers": factory.evaluated.result,
        "temperature": temperatures(factory).result["edge"],
        # Who may be judged by: `group_users` deals the same users by the same seed.
        "groups": {"users": len(factory.split.test_target), "seed": factory.seed},
    }


def _cloud(
    factory: Factory,
    shared: dict[str, object],
    model: str,
    destination: Path,
    signer: Signer | None,
) -> Bundle:
    served = factory.served
    network, neighbours = served.network, served.neighbours
    assert neighbours is not None  # of a blend
    requests = golden_requests(factory, model)
    length = factory.recipe.max_history
    replies = [cloud_reply(request, served, length) for request in requests]
    manifest = {
        **shared,
        "tier": "cloud",
        "runtime": {
            "engine": "torch",
            "entry": "model.safetensors",
            "architecture": "sasrec-knn" if isinstance(network, SASRec) else "ensemble-knn",
            "config": {**network.config.to_json(), "neighbour_weight": neighbours.weight},
        },
        "sequence": _sequence(factory, network.config.dim, table=None),
        "golden": _golden(CLOUD_TOLERANCE),
        "metrics": {
            "test": factory.blend.result["test"],
            "network": factory.cloud.result["test"],
            "baselines": factory.baselines.result,
            "minus_item_knn": factory.evaluated.result["cloud_minus_knn"],
            "temperature": temperatures(factory).result["cloud"],
        },
    }
    files = {
        "model.safetensors": save({**network.state_dict(), **neighbours.tensors()}),
        **_shared_files(factory, requests, replies),
    }
    return write_bundle(files, manifest, destination, signer)


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


def _edge_reply(
    request: ScoreRequest, session: EdgeSession, factory: Factory, threshold: float
) -> ScoreReply:
    """What an edge node must answer to a golden request."""
    carried = factory.carried
    asked = request if carried is None else carried.localised(request)
    history = asked.query["history"].astype(np.int64)
    outputs = session.run(_padded(history, factory.recipe.max_history))
    gains = np.zeros((1, len(factory.rows)), np.float32)
    if factory.near is not None:
        factory.near.boosts([history]).add_to(gains)
    items: Ids | None = None
    if asked.candidates is None:
        seen = np.append(history, [0] if carried is None else [0, carried.stand_in])
        offsets = np.array([0, seen.size], np.int64)
        found = dot_topk(
            outputs.hidden, factory.table, GOLDEN_K, boost=gains[0], exclude=(seen, offsets),
            backend="reference",
        )  # fmt: skip
        scores, items = found.values[0], found.indices[0]
    else:
        wanted = asked.candidates["id"].astype(np.int64)
        scores = factory.rows[wanted] @ outputs.hidden[0] + gains[0, wanted]
    doubt = float(outputs.uncertainty[0])
    reply = _reply(request.model, scores, items, doubt, threshold)
    return reply if carried is None else carried.told(request, reply)


def cloud_reply(request: ScoreRequest, model: CloudModel, length: int) -> ScoreReply:
    """What a cloud node must answer to a golden request."""
    history = request.query["history"].astype(np.int64)
    with torch.inference_mode():
        hidden = model.network.hidden(torch.from_numpy(_padded(history, length))).numpy()
    scores = hidden @ model.table.T
    boost = model.boost(history)
    if boost is not None:
        scores += boost
    if request.candidates is not None:
        return _reply(request.model, scores[0, request.candidates["id"].astype(np.int64)], None)
    scores[0, np.append(history, 0)] = -np.inf
    items = top_items(scores, GOLDEN_K)[0]
    best = np.where(items >= 0, scores[0, np.maximum(items, 0)], -np.inf)
    return _reply(request.model, best.astype(np.float32), items)


def _padded(history: Ids, length: int) -> Ids:
    recent = history[-length:]
    ids = np.zeros((1, length), np.int64)
    ids[0, length - recent.size :] = recent
    return ids


def _reply(
    model: str,
    scores: Floats,
    items: Ids | None,
    uncertainty: float | None = None,
    threshold: float | None = None,
) -> ScoreReply:
    """A bundle cannot contain its own id, so the reply names none."""
    return ScoreReply(
        model=model,
        bundle="golden",
        scores=scores,
        items=items,
        uncertainty=uncertainty,
        threshold=threshold,
    )


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


def _neighbours(found: NeighbourTable | None) -> dict[str, object]:
    if found is None:
        return {}
    names = {part: neighbours_file(Path(), part).name for part in PARTS}
    return {"neighbours": {**names, **gains_document(found)}}


def _neighbour_files(found: NeighbourTable | None) -> dict[str, Path | bytes]:
    if found is None:
        return {}
    return {neighbours_file(Path(), part).name: _npy(getattr(found, part)) for part in PARTS}


def _carried(found: Carried | None) -> dict[str, object]:
    if found is None:
        return {}
    names = {part: carried_file(Path(), part).name for part in CARRIED_PARTS}
    return {"carried": {**names, **carried_document(found)}}


def _carried_files(found: Carried | None) -> dict[str, Path | bytes]:
    if found is None:
        return {}
    return {carried_file(Path(), part).name: _npy(getattr(found, part)) for part in CARRIED_PARTS}


def _tensor(name: str, shape: list[str | int], *, role: str | None = None) -> dict[str, object]:
    spec: dict[str, object] = {"name": name, "dtype": "float32", "shape": shape}
    return spec if role is None else {**spec, "role": role}


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
