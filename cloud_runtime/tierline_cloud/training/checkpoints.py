"""One training run's state in one safetensors file, replaced whole after every epoch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tierline import TierlineError


class CheckpointError(TierlineError):
    """A checkpoint that cannot be resumed from; the message says why."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run has come: all that the loop's decisions depend on."""

    epoch: int = 0  # finished epochs
    best_epoch: int = 0
    best_score: float = -1.0  # valid NDCG@10
    elapsed: float = 0.0  # seconds of training so far
    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch
    done: bool = False


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The model, its optimiser, and the weights that validated best."""

    model: nn.Module
    optimiser: torch.optim.Adam
    best: dict[str, Tensor]
    progress: Progress


def save_state(path: Path, state: TrainState, *, key: str) -> None:
    """Write atomically: a run cut off while saving finds the previous checkpoint."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for number, slots in state.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in slots.items()}
    unshared = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    partial = path.with_suffix(".partial")
    notes = {"key": key, "progress": json.dumps(asdict(state.progress))}
    save_file(unshared, partial, metadata=notes)
    os.replace(partial, path)


def load_state(path: Path, state: TrainState, *, key: str) -> bool:
    """Bring ``state`` to what ``path`` holds; False when there is no checkpoint of this key.
    Raises CheckpointError when the file is damaged."""
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it to start over") from error
    if notes.get("key") != key:
        return False
    state.model.load_state_dict(_under("model.", tensors))
    state.best = _under("best.", tensors)
    state.progress = Progress(**json.loads(notes["progress"]))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("adam.", tensors).items():
        number, slot = name.split(".")
        slots.setdefault(int(number), {})[slot] = value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": slots, "param_groups": groups})
    return True


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }
