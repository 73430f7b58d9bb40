"""Whether a replica is well: it scores a request, and what came of that is judged. Pure.

A busy replica is not a sick one: to end it would hand its load to the others, and end them too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tierline import BundleRefused, DeadlineExceeded, Overloaded
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.bundle import Bundle
from tierline_serving.golden import compare
from tierline_serving.manifest import TensorSpec

PROBE_TIME: Final = 3.0  # seconds a probe may take; Ray waits longer than that for its outcome


class Probe(NamedTuple):
    """A request a healthy replica can score, and what it must answer where that is known."""

    request: ScoreRequest
    expected: ScoreReply | None = None
    tolerance: float = 0.0


def probe_of(bundle: Bundle) -> Probe:
    """The bundle's first golden request, or else the plainest request its kind takes. Raises
    BundleRefused where there is neither."""
    manifest = bundle.manifest
    pairs = bundle.golden()
    if pairs and manifest.golden is not None:
        return Probe(*pairs[0], manifest.golden.tolerance)
    if manifest.kind == "sequence":
        history = {"history": np.array([1], np.int64)}
        return Probe(ScoreRequest(model=manifest.model, query=history, k=1))
    if manifest.kind != "tensor":
        raise BundleRefused(
            f"bundle {bundle.id} has no golden requests, and health checks of kind "
            f"{manifest.kind!r} have nothing to score without them"
        )
    query = {spec.name: _zeros(spec) for spec in manifest.inputs if spec.role == "query"}
    candidates = {
        spec.name: _zeros(spec)[np.newaxis] for spec in manifest.inputs if spec.role == "candidate"
    }
    return Probe(ScoreRequest(model=manifest.model, query=query, candidates=candidates))


def verdict(probe: Probe, outcome: ScoreReply | Exception, *, has_scored: bool) -> str | None:
    """Why the replica is sick, in a sentence, or None. ``has_scored`` says whether it finished any
    batch since the probe before."""
    if isinstance(outcome, ScoreReply):
        if probe.expected is None:
            return None
        return compare(outcome, probe.expected, probe.tolerance)
    if isinstance(outcome, Overloaded):
        return None
    if isinstance(outcome, DeadlineExceeded):
        return None if has_scored else f"nothing was scored within {PROBE_TIME:g} s"
    return f"{type(outcome).__name__}: {outcome}"


def _zeros(spec: TensorSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    shape = [size if isinstance(size, int) else 1 for size in spec.shape[1:]]
    return np.zeros(shape, np.dtype(spec.dtype))
