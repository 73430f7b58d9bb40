"""What a server counts, in a Prometheus registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tierline_serving.batching.runner import BatchReport
from tierline_serving.scorer import ModelInfo

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds, from a cache hit to a call nobody waits for any more.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROWS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)


class Metrics:
    """Counters, gauges and histograms of one server; not shared between servers."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "tierline_requests", "Score requests by outcome.", ("code",), registry=registry
        )
        self._latency = Histogram(
            "tierline_request_seconds",
            "From the request's arrival to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Histogram(
            "tierline_queue_seconds",
            "Time an answered request waited to be scored.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "tierline_batch_rows",
            "Candidate rows scored together.",
            ("model",),
            buckets=_ROWS,
            registry=registry,
        )
        self._compute = Histogram(
            "tierline_compute_seconds",
            "Time one batch took to score.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._isolated = Counter(
            "tierline_poison_isolated",
            "Requests that failed alone while their batch-mates were answered.",
            ("model",),
            registry=registry,
        )
        self._inflight = Gauge(
            "tierline_inflight_requests", "Score requests being handled.", registry=registry
        )
        self._ready = Gauge("tierline_ready", "1 when ready, else 0.", registry=registry)
        self._bundle = Gauge(
            "tierline_bundle_info",
            "The bundle served, as labels; always 1.",
            ("model", "bundle", "tier", "engine"),
            registry=registry,
        )
        self._by_code: dict[str, Counter] = {}  # labels() costs more than inc()

    def began(self) -> None:
        """A score request arrived."""
        self._inflight.inc()

    def ended(self, code: str, seconds: float, queue: float | None) -> None:
        """A score request was answered with ``code`` ("ok" or an error code)."""
        self._inflight.dec()
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._requests.labels(code)
        counter.inc()
        self._latency.observe(seconds)
        if queue is not None:
            self._queue.observe(queue)

    def batch_finished(self, report: BatchReport) -> None:
        """A batch was scored, whole or in parts."""
        self._batch_rows.labels(report.model).observe(report.rows)
        self._compute.labels(report.model).observe(report.compute)
        if 0 < report.failed < report.requests:
            self._isolated.labels(report.model).inc(report.failed)

    def render(self, *, ready: bool, models: list[ModelInfo]) -> bytes:
        """The Prometheus text of everything, with readiness and bundles as they are now."""
        self._ready.set(1 if ready else 0)
        self._bundle.clear()  # a swapped-out bundle is not served any more
        for info in models:
            self._bundle.labels(info.name, info.bundle, info.tier, info.engine).set(1)
        return generate_latest(self._registry)
