"""The metrics of several processes as those of one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

# A family is ready when its least ready process is, and began when its first did; a caller may
# meet the longest wait.
_SMALLEST: Final = ("tierline_ready",)
_LARGEST: Final = ("tierline_expected_wait_seconds",)
_CREATED: Final = "_created"
_INFO: Final = "_info"


class Sum(Collector):
    """Expositions added up: counters, histograms and most gauges are sums."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, text: bytes) -> None:
        """Take in one process's exposition. Raises ValueError when it is none."""
        for family in text_string_to_metric_families(text.decode()):
            known = self._families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            values = self._values.setdefault(known.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                before = values.get(key)
                values[key] = (
                    sample.value if before is None else _together(sample.name, before, sample.value)
                )

    def collect(self) -> Iterator[Metric]:
        """The sums, as prometheus_client's families."""
        for name, family in self._families.items():
            summed = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                summed.add_sample(sample, dict(labels), value)
            yield summed

    def render(self) -> bytes:
        """The sums as Prometheus text."""
        return generate_latest(self)


def add_up(texts: Sequence[bytes]) -> bytes:
    """Several processes' expositions as one."""
    total = Sum()
    for text in texts:
        total.add(text)
    return total.render()


def counters_of(text: bytes) -> bytes:
    """What of an exposition outlives its process: counters and histograms, no gauges."""
    total = Sum()
    total.add(text)
    kept = {
        name: family
        for name, family in total._families.items()
        if family.type in ("counter", "histogram", "summary")
    }
    total._families = kept
    return total.render()


def _together(name: str, one: float, other: float) -> float:
    if name in _SMALLEST or name.endswith(_CREATED):
        return min(one, other)
    is_largest = name in _LARGEST or name.endswith(_INFO)
    return max(one, other) if is_largest else one + other
