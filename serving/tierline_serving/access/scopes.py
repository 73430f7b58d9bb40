"""Which scope each request needs. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final

from tierline_serving.oip.paths import Operation, target_of


class Scope(Enum):
    """What a key may be used for; each is granted by name, none includes another."""

    SCORE = "score"  # scoring, and what describes the models
    METRICS = "metrics"  # metrics and statistics
    ADMIN = "admin"  # the index of models; load, unload, roll back, label


# Probes carry no keys, and tell nothing but yes or no.
OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
_OPEN: Final = frozenset({Operation.LIVE, Operation.READY})
_BY_OPERATION: Final = {
    Operation.ALL_STATISTICS: Scope.METRICS,
    Operation.STATISTICS: Scope.METRICS,
    Operation.INDEX: Scope.ADMIN,
    Operation.LOAD: Scope.ADMIN,
    Operation.UNLOAD: Scope.ADMIN,
    Operation.ROLL_BACK: Scope.ADMIN,
    Operation.LABEL: Scope.ADMIN,
}


def needed_scope(path: str, raw_path: str) -> Scope | None:
    """The scope a request needs, None for an open one. Whatever is not known needs ``score``.

    ``path`` is the path with percent signs resolved, ``raw_path`` as it was sent: routes are found
    by the one or the other, and so is what they need.
    """
    if path in OPEN_PATHS:
        return None
    if path == "/metrics":
        return Scope.METRICS
    target = target_of(raw_path) if path.startswith("/v2") else None
    if target is None:
        return Scope.SCORE
    if target.operation in _OPEN:
        return None
    return _BY_OPERATION.get(target.operation, Scope.SCORE)
