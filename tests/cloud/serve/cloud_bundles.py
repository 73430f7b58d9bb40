"""Tiny torch bundles: an untrained SASRec, and a module that a bundle brings."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_serving.bundle import Bundle, write_bundle

ITEMS, HISTORY, DIM, FEATURES = 60, 8, 16, 4
CONFIG = SASRecConfig(n_items=ITEMS, dim=DIM, max_history=HISTORY, heads=2)


class Taste(torch.nn.Module):
    """user · W · item for every row."""

    def __init__(self, width: int = FEATURES) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(width, width, bias=False)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = (user * self.mix(item)).sum(-1)
        return scores


class Wrong(torch.nn.Module):
    """Answers one score too few, or does not know the user, as its weight-free state says."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        if self.fault == "raises":
            raise KeyError("no such user")
        scores = (user * item).sum(-1)
        return scores[1:] if self.fault == "short" else scores * torch.inf


def taste(width: int = FEATURES) -> torch.nn.Module:
    """What a bundle's factory names."""
    return Taste(width)


def describe() -> str:
    """A factory that makes no module."""
    return "a lovely model"


def wrong(fault: str) -> torch.nn.Module:
    return Wrong(fault)


def sasrec() -> SASRec:
    torch.manual_seed(3)
    return SASRec(CONFIG).eval()


def write_sasrec(folder: Path, weights: bytes | None = None, /, **changes: object) -> Bundle:
    """``weights`` None are the untrained model's; ``changes`` replace entries of the manifest."""
    prior = np.concatenate(([-np.inf], np.linspace(1, 0, ITEMS))).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, prior, allow_pickle=False)
    manifest: dict[str, object] = {
        "format": 1,
        "model": "ranker",
        "version": "1",
        "kind": "sequence",
        "tier": "cloud",
        "created": "2026-11-21T00:00:00Z",
        "runtime": {
            "engine": "torch",
            "entry": "model.safetensors",
            "architecture": "sasrec",
            "config": CONFIG.to_json(),
        },
        "sequence": {"items": ITEMS, "max_history": HISTORY, "dim": DIM},
        "prior": "prior.npy",
        **changes,
    }
    weights = save(sasrec().state_dict()) if weights is None else weights
    files: dict[str, Path | bytes] = {
        "model.safetensors": weights,
        "prior.npy": buffer.getvalue(),
    }
    return write_bundle(files, manifest, folder)


def write_own(folder: Path, function: str = "taste", **config: object) -> Bundle:
    """A bundle of kind tensor whose module this file makes; ``taste`` has weights."""
    files: dict[str, Path | bytes] = {}
    runtime: dict[str, object] = {
        "engine": "torch",
        "factory": f"{__name__}:{function}",
        "config": config,
    }
    if function == "taste":
        torch.manual_seed(4)
        files["model.safetensors"] = save(Taste().state_dict())
        runtime["entry"] = "model.safetensors"
    spec = {"dtype": "float32", "shape": ["rows", FEATURES]}
    manifest = {
        "format": 1,
        "model": "taste",
        "version": "1",
        "kind": "tensor",
        "tier": "cloud",
        "created": "2026-11-21T00:00:00Z",
        "runtime": runtime,
        "inputs": [
            {"name": "user", "role": "query", **spec},
            {"name": "item", "role": "candidate", **spec},
        ],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
    }
    return write_bundle(files, manifest, folder)
