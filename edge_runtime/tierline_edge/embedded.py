"""Opens ``embedded:PATH`` endpoints: the edge scorer inside the caller's process."""

from __future__ import annotations

import os
from pathlib import Path

from tierline_edge.scorer import EdgeScorer, load_scorer
from tierline_serving.bundle import open_bundle
from tierline_serving.signing import Trust

TRUSTED_KEYS = "TIERLINE_TRUSTED_KEYS"  # environment: PEM files, separated as in PATH


def open_scorer(path: str, *, allow_unsigned: bool) -> EdgeScorer:
    """Verify and load the bundle at ``path``; signed ones need their key in TIERLINE_TRUSTED_KEYS.
    One thread: the caller's process has its own work to do. Raises BundleRefused."""
    keys = [Path(key) for key in os.environ.get(TRUSTED_KEYS, "").split(os.pathsep) if key]
    trust = Trust.from_files(keys, allow_unsigned=allow_unsigned)
    return load_scorer(open_bundle(path, trust), threads=1)
