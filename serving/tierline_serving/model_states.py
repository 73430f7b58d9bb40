"""Where each model of a process stands: the rows of its index. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tierline_serving.served import Generation, Line


class State(Enum):
    """Where a model of this process stands."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One row of the index; ``bundle`` None when nothing of the model is loaded."""

    name: str
    bundle: str | None
    state: State
    reason: str = ""


def rows_of(name: str, line: Line | None, *, is_loading: bool, reason: str) -> list[ModelState]:
    """A row for each loaded bundle of a model, the one that answers first; one row when there is
    none. ``reason`` is what was last said of the model."""
    if line is None:
        if is_loading:
            return [ModelState(name=name, bundle=None, state=State.LOADING)]
        reason = reason or "not loaded"
        return [ModelState(name=name, bundle=None, state=State.UNAVAILABLE, reason=reason)]
    others = [each for each in line.loaded.values() if each is not line.now]
    return [_row(name, line.now, reason), *(_row(name, each, "") for each in others)]


def _row(name: str, generation: Generation, reason: str) -> ModelState:
    if generation.runner.is_alive:
        return ModelState(name=name, bundle=generation.bundle, state=State.READY, reason=reason)
    why = reason or "its scoring thread has ended"
    return ModelState(name=name, bundle=generation.bundle, state=State.UNAVAILABLE, reason=why)
