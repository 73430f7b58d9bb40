"""Pack my two models as bundles of kind `tensor`: the inputs are whatever the models take."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import torch
from my_models import FEATURES, OPSET, build, edge_graph
from safetensors.torch import save

from tierline_serving.bundle import write_bundle

MODEL = "taste"
THRESHOLD = 0.5  # the edge answers alone when its mean uncertainty is below this
SHAPE: list[int | str] = ["rows", FEATURES]


def pack(folder: Path) -> tuple[Path, Path]:
    """Write both bundles under ``folder``; returns the edge's and the cloud's path."""
    edge = write_bundle(
        {"model.onnx": edge_graph()},
        {
            **_described("edge", ["scores", "uncertainty"]),
            "runtime": {"engine": "onnx", "entry": "model.onnx", "opset": OPSET},
            "uncertainty": {"output": "uncertainty", "threshold": THRESHOLD},
        },
        folder,
    )
    torch.manual_seed(7)
    cloud = write_bundle(
        {"model.safetensors": save(build().state_dict())},
        {
            **_described("cloud", ["scores"]),
            "runtime": {
                "engine": "torch",
                "entry": "model.safetensors",
                "factory": "my_models:build",  # imported only with --allow-module my_models
            },
        },
        folder,
    )
    return edge.path, cloud.path


def _described(tier: str, outputs: list[str]) -> dict[str, object]:
    """What both manifests share. A query tensor is sent once and repeated for every candidate."""
    return {
        "format": 1,
        "model": MODEL,
        "version": "1",
        "kind": "tensor",
        "tier": tier,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "inputs": [
            {"name": "user", "dtype": "float32", "shape": SHAPE, "role": "query"},
            {"name": "item", "dtype": "float32", "shape": SHAPE, "role": "candidate"},
        ],
        "outputs": [{"name": name, "dtype": "float32", "shape": ["rows"]} for name in outputs],
    }
