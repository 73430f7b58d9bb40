"""Which operation of the protocol a path and a verb name. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from tierline_serving.versions import LABEL_PREFIX


class Operation(Enum):
    """What a request under /v2 asks for; the value is the only verb it takes."""

    SERVER = ("server", "GET")
    LIVE = ("live", "GET")
    READY = ("ready", "GET")
    MODELS = ("models", "GET")
    ALL_STATISTICS = ("all statistics", "GET")
    MODEL = ("model", "GET")
    MODEL_READY = ("model ready", "GET")
    CONFIG = ("config", "GET")
    STATISTICS = ("statistics", "GET")
    INFER = ("infer", "POST")
    INDEX = ("index", "POST")
    LOAD = ("load", "POST")
    UNLOAD = ("unload", "POST")
    ROLL_BACK = ("roll-back", "POST")
    LABEL = ("label", "POST")
    UNSERVED = ("unserved", "")

    @property
    def verb(self) -> str:
        """GET or POST; empty when any verb gets the same answer."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Target:
    """An operation, with the model and version it is about, and the label it moves."""

    operation: Operation
    model: str = ""
    version: str | None = None
    label: str = ""


_ABOUT_A_MODEL = {
    (): Operation.MODEL,
    ("ready",): Operation.MODEL_READY,
    ("config",): Operation.CONFIG,
    ("stats",): Operation.STATISTICS,
    ("infer",): Operation.INFER,
    ("trace", "setting"): Operation.UNSERVED,
    ("generate",): Operation.UNSERVED,
    ("generate_stream",): Operation.UNSERVED,
}
_FIXED = {
    ("v2",): Operation.SERVER,
    ("v2", "health", "live"): Operation.LIVE,
    ("v2", "health", "ready"): Operation.READY,
    ("v2", "models"): Operation.MODELS,
    ("v2", "models", "stats"): Operation.ALL_STATISTICS,
    ("v2", "repository", "index"): Operation.INDEX,
    ("v2", "logging"): Operation.UNSERVED,
    ("v2", "trace", "setting"): Operation.UNSERVED,
}
_UNSERVED_BELOW = ("systemsharedmemory", "cudasharedmemory")


def target_of(path: str) -> Target | None:
    """What a path, percent signs and all, names; None for nothing."""
    segments = tuple(unquote(part) for part in path.strip("/").split("/"))
    fixed = _FIXED.get(segments)
    if fixed is not None:
        return Target(fixed)
    match segments:
        case ("v2", "models", model, "versions", version, *rest) if model and version:
            operation = _ABOUT_A_MODEL.get(tuple(rest))
            return None if operation is None else Target(operation, model, version)
        case ("v2", "models", model, "labels", label, *rest) if model and label:
            operation = _ABOUT_A_MODEL.get(tuple(rest))
            version = LABEL_PREFIX + label
            return None if operation is None else Target(operation, model, version)
        case ("v2", "models", model, *rest) if model:
            operation = _ABOUT_A_MODEL.get(tuple(rest))
            return None if operation is None else Target(operation, model)
        case ("v2", "repository", "models", model, "load") if model:
            return Target(Operation.LOAD, model)
        case ("v2", "repository", "models", model, "unload") if model:
            return Target(Operation.UNLOAD, model)
        case ("v2", "repository", "models", model, "rollback") if model:
            return Target(Operation.ROLL_BACK, model)
        case ("v2", "repository", "models", model, "labels", label) if model and label:
            return Target(Operation.LABEL, model, label=label)
        case ("v2", area, *_) if area in _UNSERVED_BELOW:
            return Target(Operation.UNSERVED)
        case _:
            return None
