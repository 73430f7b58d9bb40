"""A replica's counts in Ray's metrics too: every replica is scraped where it runs, whichever of
them a proxy would have asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from tierline_serving.batching import BatchReport
from tierline_serving.metrics import Metrics

# Seconds; fewer than a node's own, for Ray keeps every bucket of every replica.
BOUNDARIES: Final = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0]


class Counter(Protocol):
    """What is used of Ray's Counter."""

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None: ...


class Histogram(Protocol):
    """What is used of Ray's Histogram."""

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None: ...


class RayCounts:
    """Outcomes and times as Ray counts them; a ``Watcher`` of the replica's own metrics."""

    def __init__(
        self,
        *,
        requests: Counter,
        rejected: Counter,
        latency: Histogram,
        queue: Histogram,
        compute: Histogram,
    ) -> None:
        self._ray_requests = requests
        self._ray_rejected = rejected
        self._ray_latency = latency
        self._ray_queue = queue
        self._ray_compute = compute

    def ended(self, code: str, seconds: float, queue: float | None, reason: str | None) -> None:
        """A score request was answered."""
        self._ray_requests.inc(tags={"code": code})
        self._ray_latency.observe(seconds)
        if queue is not None:
            self._ray_queue.observe(queue)
        if reason is not None:
            self._ray_rejected.inc(tags={"reason": reason})

    def batch_finished(self, report: BatchReport) -> None:
        """A batch was scored."""
        self._ray_compute.observe(report.compute, tags={"model": report.model})


def ray_metrics() -> Metrics:
    """Metrics of this replica, counted by Ray too: it adds the names of deployment, replica and
    application, and exports them as ``ray_tierline_…``. Call it in a replica's process."""
    from ray.serve import metrics

    def histogram(name: str, about: str, *tags: str) -> Histogram:
        made: Histogram = metrics.Histogram(name, about, boundaries=BOUNDARIES, tag_keys=tags)
        return made

    counts = RayCounts(
        requests=metrics.Counter("tierline_requests", "Score requests by outcome.", ("code",)),
        rejected=metrics.Counter("tierline_rejected", "Refused, by the reason.", ("reason",)),
        latency=histogram("tierline_request_seconds", "From a request's arrival to its answer."),
        queue=histogram("tierline_queue_seconds", "Time an answered request waited."),
        compute=histogram("tierline_compute_seconds", "Time one batch took to score.", "model"),
    )
    return Metrics(counts)
