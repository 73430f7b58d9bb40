"""Ray Serve's autoscaling policy: reads what the replicas report, and asks `scaling`.

Ray makes one object a deployment in its controller and calls it every 0.1 s; its own bounds,
patience and factors are applied to what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tierline_cloud.ray.scaling import Goals, read_loads, replicas_wanted


class Context(Protocol):
    """What is read of Ray's AutoscalingContext."""

    current_num_replicas: int
    target_num_replicas: int

    @property
    def total_queued_requests(self) -> float | None: ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[object, float]] | None: ...


class QueueDelayPolicy:
    """Replicas by queue delay. ``delay`` in seconds, ``busy`` as a share, as Goals has them."""

    def __init__(self, delay: float, busy: float) -> None:
        self._goals = Goals(delay=delay, busy=busy)

    def __call__(self, context: Context) -> tuple[int, dict[str, object]]:
        """The replicas wanted now, and no state of our own."""
        wanted = replicas_wanted(
            read_loads(context.aggregated_metrics or {}),
            running=context.current_num_replicas,
            target=context.target_num_replicas,
            queued=context.total_queued_requests or 0.0,
            goals=self._goals,
        )
        return wanted, {}
