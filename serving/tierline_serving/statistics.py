"""What each bundle's batches amounted to since it was loaded: counts and sums of nanoseconds. Pure.

Counted per batch, so that a request costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tierline_serving.batching.scoring import BatchReport
from tierline_serving.costs import bucket_of

MOST_BUNDLES: Final = 256  # counted at once; then the one that came first is forgotten


@dataclass(slots=True)
class Sum:
    """How often, and how long in all (nanoseconds)."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, seconds: float) -> None:
        """Take in ``count`` of them that lasted ``seconds`` together."""
        self.count += count
        self.ns += round(seconds * 1e9)

    def as_json(self) -> dict[str, int]:
        """The sum as the Open Inference Protocol's statistics write it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class BundleStatistics:
    """One bundle's requests and batches; sizes of batches are rounded up to a power of two."""

    last_at: float = 0.0  # UTC seconds of the last batch
    rows: int = 0
    batches: int = 0
    success: Sum = field(default_factory=Sum)
    fail: Sum = field(default_factory=Sum)
    queue: Sum = field(default_factory=Sum)
    compute: Sum = field(default_factory=Sum)
    by_size: dict[int, Sum] = field(default_factory=dict)

    def batch_finished(self, report: BatchReport, at: float) -> None:
        """Take in one batch that ended at ``at`` (UTC seconds)."""
        good = report.requests - report.failed
        shared = report.queue / report.requests + report.compute
        self.last_at = at
        self.rows += report.rows
        self.batches += report.runs
        self.success.add(good, good * shared)
        self.fail.add(report.failed, report.failed * shared)
        self.queue.add(report.requests, report.queue)
        self.compute.add(report.requests, report.requests * report.compute)
        self.by_size.setdefault(bucket_of(report.rows), Sum()).add(1, report.compute)


class Statistics:
    """The statistics of every bundle served, each for itself: one model may have several."""

    def __init__(self) -> None:
        self._bundles: dict[tuple[str, str], BundleStatistics] = {}

    def batch_finished(self, report: BatchReport, at: float) -> None:
        """Take in one finished batch."""
        self.of(report.model, report.bundle).batch_finished(report, at)

    def of(self, model: str, bundle: str) -> BundleStatistics:
        """What is known of a bundle; zeros at first."""
        found = self._bundles.get((model, bundle))
        if found is None:
            if len(self._bundles) >= MOST_BUNDLES:
                del self._bundles[next(iter(self._bundles))]
            found = self._bundles[model, bundle] = BundleStatistics()
        return found
