"""How many cores this process may really use, for models that are told their threads."""

from __future__ import annotations

import math
import os
from pathlib import Path

from tierline import ConfigurationError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def choose_threads(asked: int | None, *, limit: Path = _CGROUP_LIMIT) -> int:
    """``asked`` when it says something, else the cores that affinity and the cgroup's quota leave
    us (at least 1). ``limit`` is the cgroup's file. Raises ConfigurationError below 1."""
    if asked is not None:
        if asked < 1:
            raise ConfigurationError(f"must be at least 1, got {asked}", key="threads")
        return asked
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
        return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # no cgroup v2 limit here
