"""What a server counts, as Prometheus families made when they are asked for.

Counting is plain arithmetic on one event loop: no lock, no label look-up, well under a microsecond
a figure. Requests are counted when they end, batches when they are scored.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tierline_serving.batching.scoring import BatchReport
from tierline_serving.costs import bucket_of
from tierline_serving.scorer import ModelInfo

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

Bounds = tuple[float, ...]

# Seconds, from a cache hit to a call nobody waits for any more.
_SECONDS: Final[Bounds] = (
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
)
_ROWS: Final[Bounds] = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)
_REQUESTS: Final[Bounds] = (1, 2, 4, 8, 16, 32, 64)

Labels = Sequence[str]
Numbers = dict[tuple[str, ...], float]


class Tally:
    """A histogram: how many values fell under each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a bound belongs to the bucket it ends."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Labels = ()) -> None:
        """Write it into a family of Prometheus."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(map(float, self._counts)), strict=True))
        family.add_metric(list(labels), buckets, self._sum)


Tallies = dict[tuple[str, ...], Tally]


class _ModelTallies:
    """One model's batches."""

    def __init__(self) -> None:
        self.rows = Tally(_ROWS)
        self.requests = Tally(_REQUESTS)
        self.compute = Tally(_SECONDS)
        self.by_bucket: dict[int, Tally] = {}
        self.isolated = 0

    def add(self, report: BatchReport) -> None:
        """Take in one batch."""
        self.rows.observe(report.rows)
        self.requests.observe(report.requests)
        self.compute.observe(report.compute)
        bucket = bucket_of(report.rows)
        if bucket not in self.by_bucket:
            self.by_bucket[bucket] = Tally(_SECONDS)
        self.by_bucket[bucket].observe(report.compute)
        if 0 < report.failed < report.requests:
            self.isolated += report.failed


class Watcher(Protocol):
    """Who is told what is counted, as it is counted."""

    def ended(self, code: str, seconds: float, queue: float | None, reason: str | None) -> None: ...

    def batch_finished(self, report: BatchReport) -> None: ...


class Metrics:
    """Counts of one server; not shared between servers. ``also`` is told of every count."""

    def __init__(self, also: Watcher | None = None) -> None:
        self._also = also
        self._by_code: dict[str, int] = {}
        self._by_reason: dict[str, int] = {}
        self._latency = Tally(_SECONDS)
        self._queue = Tally(_SECONDS)
        self._models: dict[str, _ModelTallies] = {}
        self._inflight = 0
        self._is_ready = False
        self._infos: Sequence[ModelInfo] = ()
        self._waits: Mapping[str, float] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Source(self._families))

    def began(self) -> None:
        """A score request arrived."""
        self._inflight += 1

    def ended(
        self, code: str, seconds: float, queue: float | None, reason: str | None = None
    ) -> None:
        """A score request was answered with ``code`` ("ok" or an error code); ``reason`` says in
        one word why it was rejected."""
        self._inflight -= 1
        self._by_code[code] = self._by_code.get(code, 0) + 1
        self._latency.observe(seconds)
        if queue is not None:
            self._queue.observe(queue)
        if reason is not None:
            self._by_reason[reason] = self._by_reason.get(reason, 0) + 1
        if self._also is not None:
            self._also.ended(code, seconds, queue, reason)

    def batch_finished(self, report: BatchReport) -> None:
        """A batch was scored, whole or in parts."""
        tallies = self._models.get(report.model)
        if tallies is None:
            tallies = self._models[report.model] = _ModelTallies()
        tallies.add(report)
        if self._also is not None:
            self._also.batch_finished(report)

    def render(
        self,
        *,
        ready: bool,
        models: list[ModelInfo],
        waits: Mapping[str, float] | None = None,
    ) -> bytes:
        """The Prometheus text of everything, with readiness, bundles and the expected wait of each
        model's queue as they are now."""
        self._is_ready, self._infos, self._waits = ready, models, waits or {}
        return generate_latest(self._registry)

    def _families(self) -> Iterator[Metric]:
        yield from self._of_requests()
        yield from self._of_batches()
        yield _gauge("tierline_ready", "1 when ready, else 0.", {(): float(self._is_ready)})
        bundles: Numbers = {
            (each.name, each.bundle, each.tier, each.engine): 1.0 for each in self._infos
        }
        about = "The bundle served, as labels; always 1."
        yield _gauge("tierline_bundle_info", about, bundles, ("model", "bundle", "tier", "engine"))
        about = "Seconds a request arriving now would wait to be scored."
        waits: Numbers = {(name,): wait for name, wait in self._waits.items()}
        yield _gauge("tierline_expected_wait_seconds", about, waits, ("model",))

    def _of_requests(self) -> Iterator[Metric]:
        yield _counter("tierline_requests", "Score requests by outcome.", "code", self._by_code)
        about = "Score requests that were not answered, by the reason."
        yield _counter("tierline_rejected", about, "reason", self._by_reason)
        about = "Score requests being handled."
        yield _gauge("tierline_inflight_requests", about, {(): float(self._inflight)})
        about = "From the request's arrival to its answer."
        yield _histogram("tierline_request_seconds", about, {(): self._latency})
        about = "Time an answered request waited to be scored."
        yield _histogram("tierline_queue_seconds", about, {(): self._queue})

    def _of_batches(self) -> Iterator[Metric]:
        each = self._models.items()
        rows: Tallies = {(name,): model.rows for name, model in each}
        yield _histogram("tierline_batch_rows", "Candidate rows scored together.", rows, ("model",))
        requests: Tallies = {(name,): model.requests for name, model in each}
        about = "Requests scored together."
        yield _histogram("tierline_batch_requests", about, requests, ("model",))
        compute: Tallies = {(name,): model.compute for name, model in each}
        about = "Time one batch took to score."
        yield _histogram("tierline_compute_seconds", about, compute, ("model",))
        buckets: Tallies = {
            (name, str(bucket)): tally
            for name, model in each
            for bucket, tally in sorted(model.by_bucket.items())
        }
        about = "Time one batch took, by its rows rounded up to a power of two."
        yield _histogram("tierline_bucket_seconds", about, buckets, ("model", "bucket"))
        isolated = {name: model.isolated for name, model in each}
        about = "Requests that failed alone while their batch-mates were answered."
        yield _counter("tierline_poison_isolated", about, "model", isolated)


class _Source(Collector):
    """Hands a registry the families of the moment."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _counter(name: str, about: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, about, labels=(label,))
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, about: str, values: Numbers, labels: Labels = ()) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _histogram(name: str, about: str, values: Tallies, labels: Labels = ()) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for key, tally in values.items():
        tally.add_to(family, key)
    return family
