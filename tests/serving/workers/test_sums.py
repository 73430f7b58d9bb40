"""Several processes' metrics added up, and when a dead worker's place is filled again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tierline_serving.workers.respawn import FIRST_WAIT, GROWN_UP, LONGEST_WAIT, Respawn
from tierline_serving.workers.sums import add_up, counters_of


def exposition(requests: dict[str, int], seconds: list[float], *, ready: int = 1) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("tierline_requests", "by outcome", ("code",), registry=registry)
    for code, count in requests.items():
        counter.labels(code).inc(count)
    histogram = Histogram("tierline_request_seconds", "time", buckets=(0.1, 1), registry=registry)
    for each in seconds:
        histogram.observe(each)
    Gauge("tierline_ready", "ready", registry=registry).set(ready)
    Gauge("tierline_inflight_requests", "now", registry=registry).set(2)
    info = Gauge("tierline_bundle_info", "bundle", ("bundle",), registry=registry)
    info.labels("1@a").set(1)
    return generate_latest(registry)


def values(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counters_histograms_and_load_add_up_readiness_is_the_least() -> None:
    one = exposition({"ok": 3, "overloaded": 1}, [0.05, 0.5])
    other = exposition({"ok": 4}, [5.0], ready=0)
    found = values(add_up([one, other]))
    assert found["tierline_requests_total", (("code", "ok"),)] == 7
    assert found["tierline_requests_total", (("code", "overloaded"),)] == 1
    assert found["tierline_request_seconds_bucket", (("le", "0.1"),)] == 1
    assert found["tierline_request_seconds_bucket", (("le", "+Inf"),)] == 3
    assert found["tierline_request_seconds_sum", ()] == 5.55
    assert found["tierline_ready", ()] == 0
    assert found["tierline_inflight_requests", ()] == 4
    assert found["tierline_bundle_info", (("bundle", "1@a"),)] == 1


@settings(max_examples=20)
@given(st.lists(st.integers(0, 1000), max_size=4))
def test_the_order_of_the_workers_does_not_matter_and_one_alone_stays_as_it_is(
    counts: list[int],
) -> None:
    texts = [exposition({"ok": count}, [0.1]) for count in counts]
    assert values(add_up(texts)) == values(add_up(texts[::-1]))
    assert all(values(add_up([text])) == values(text) for text in texts)
    assert values(add_up([add_up(texts)])) == values(add_up(texts))


def test_what_outlives_a_worker_are_its_counters() -> None:
    kept = values(counters_of(exposition({"ok": 3}, [0.5])))
    assert kept["tierline_requests_total", (("code", "ok"),)] == 3
    assert not any(name.startswith(("tierline_ready", "tierline_inf")) for name, _ in kept)
    assert values(counters_of(b"")) == {}


def test_a_place_whose_workers_die_young_waits_longer_each_time_and_heals() -> None:
    place = Respawn()
    waits = [place.died(1.0) for _ in range(12)]
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT
    assert place.died(GROWN_UP) == 0.0
    assert place.died(1.0) == pytest.approx(FIRST_WAIT)
    assert place.deaths == 14
