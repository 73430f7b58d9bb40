"""Packs a text index as a cloud bundle: encoder, tokenizer, tables, golden searches."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_cloud.text.encoding import Role, TextEncoder
from tierline_cloud.text.index import Fidelity, TextIndex, sizes
from tierline_cloud.text.scorer import ARCHITECTURE
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.manifest import utc_instant
from tierline_serving.signing import Signer
from tierline_serving.text_requests import TEXT, pack_text

GOLDEN_ITEMS, GOLDEN_K, GOLDEN_CANDIDATES = 4, 10, 20
GOLDEN_BYTES = 64  # of a golden query: the head of an item's text
TOLERANCE = 1e-3  # a float32 difference of 1e-6 between two CPUs moves no score by more
RESCORED = 100


def pack_index(
    index: TextIndex,
    encoder: TextEncoder,
    texts: list[str],
    fidelity: Fidelity,
    *,
    model: str,
    destination: Path,
    signer: Signer | None,
    now: datetime,
    rescored: int = RESCORED,
) -> Bundle:
    """Write the bundle under ``destination``; ``now`` (aware) dates and numbers it."""
    requests = golden_requests(model, texts)
    replies = [_reply(request, index, encoder, rescored) for request in requests]
    manifest = {
        **_fixed(index, encoder, rescored),
        "model": model,
        "version": now.astimezone(UTC).strftime("%Y.%m.%d-%H%M%S"),
        "created": utc_instant(now),
        "metrics": {
            "bytes": sizes(index, encoder.bytes),
            "tokens": index.tokens.shape[0],
            "int8": {"mean": fidelity.mean, "lowest_percent": fidelity.lowest_percent},
            "cut": fidelity.cut,
        },
    }
    files = {
        **_index_files(index, encoder),
        "golden.requests.bin": pack_requests(requests),
        "golden.replies.bin": pack_replies(replies),
    }
    return write_bundle(files, manifest, destination, signer)


def _fixed(index: TextIndex, encoder: TextEncoder, rescored: int) -> dict[str, object]:
    """What the manifest says whenever it is made."""
    config = {
        "encoder": encoder.network.config.to_json(),
        "settings": encoder.settings.to_json(),
    }
    return {
        "format": 1,
        "kind": "text",
        "tier": "cloud",
        "runtime": {
            "engine": "torch",
            "entry": "model.safetensors",
            "architecture": ARCHITECTURE,
            "config": config,
        },
        "inputs": [{"name": TEXT, "dtype": "uint8", "shape": ["bytes"], "role": "query"}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
        "text": {
            "items": index.items,
            "dim": encoder.dim,
            "vectors": "vectors",
            "tokens": "tokens",
            "offsets": "tokens.offsets.npy",
            "tokenizer": "tokenizer.json",
            "rescored": rescored,
        },
        "tables": {
            name: {"codes": f"{name}.codes.npy", "scales": f"{name}.scales.npy"}
            for name in ("vectors", "tokens")
        },
        "golden": {
            "requests": "golden.requests.bin",
            "replies": "golden.replies.bin",
            "tolerance": TOLERANCE,
        },
    }


def _index_files(index: TextIndex, encoder: TextEncoder) -> dict[str, Path | bytes]:
    return {
        "model.safetensors": save(encoder.network.state_dict()),
        "tokenizer.json": encoder.tokenizer.to_str().encode("utf-8"),
        "vectors.codes.npy": _npy(index.vectors.codes),
        "vectors.scales.npy": _npy(index.vectors.scales),
        "tokens.codes.npy": _npy(index.tokens.codes),
        "tokens.scales.npy": _npy(index.tokens.scales),
        "tokens.offsets.npy": _npy(index.offsets),
    }


def golden_requests(model: str, texts: list[str]) -> list[ScoreRequest]:
    """Both kinds of request, with the heads of a few items' own texts as queries."""
    step = max(1, len(texts) // GOLDEN_ITEMS)
    ids = np.unique(np.linspace(1, len(texts), GOLDEN_CANDIDATES).astype(np.int64))
    requests = []
    for text in texts[::step][:GOLDEN_ITEMS]:
        head = text.encode("utf-8")[:GOLDEN_BYTES].decode("utf-8", "ignore").strip() or text
        query = {TEXT: pack_text(head)}
        requests.append(ScoreRequest(model=model, query=query, k=GOLDEN_K))
        requests.append(ScoreRequest(model=model, query=query, candidates={CANDIDATE_IDS: ids}))
    return requests


def _reply(
    request: ScoreRequest, index: TextIndex, encoder: TextEncoder, rescored: int
) -> ScoreReply:
    """What a node must answer; a bundle cannot contain its own id, so the reply names none."""
    query = encoder.encode(request.query[TEXT].tobytes().decode("utf-8"), Role.QUERY)
    items: NDArray[np.int64] | None = None
    if request.candidates is None:
        items, scores = index.search(query, request.k or 1, rescored)
    else:
        wanted = request.candidates[CANDIDATE_IDS].astype(np.int64)
        scores = index.score(query.tokens, wanted)
    return ScoreReply(model=request.model, bundle="golden", scores=scores, items=items)


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
