"""How many replicas a queue delay asks for, and what a replica says of its load."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.ray.policy import QueueDelayPolicy
from tierline_cloud.ray.scaling import Goals, Load, LoadWindow, read_loads, replicas_wanted
from tierline_serving.batching import BatchReport

GOALS = Goals(delay=0.010, busy=0.7)
LOADS = st.lists(
    st.builds(Load, st.floats(0, 100), st.floats(0, 1), st.floats(0, 10)), min_size=1, max_size=20
)
COUNTS = st.integers(1, 200)


def wanted(*loads: Load, running: int = 4, target: int = 4, queued: float = 0.0) -> int:
    return replicas_wanted(loads, running=running, target=target, queued=queued, goals=GOALS)


def report(requests: int, queue: float, compute: float) -> BatchReport:
    return BatchReport(
        model="ranker", requests=requests, rows=requests, compute=compute, runs=1, failed=0,
        bundle="1@x", queue=queue,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([Load(0.015, 0.5)], 6),  # half as long again as it may: half as many again
        ([Load(0.0101, 0.1)], 5),  # a little too long: one more
        ([Load(9.0, 1.0)], 8),  # however long: twice as many at most
        ([Load(0.008, 0.1)], 4),  # near the goal nothing shrinks
        ([Load(0.001, 0.9)], 6),  # nobody waits yet, but they soon will: 4 × 0.9 ÷ 0.7
        ([Load(0.001, 0.5)], 3),  # 4 × 0.5 ÷ 0.7
        ([Load(0.0, 0.0)], 2),  # idle: half a step down at most
        (
            [Load(0.02, 0.5), Load(0.0, 0.5), Load(0.0, 0.5), Load(0.02, 0.5)],
            4,
        ),  # 10 ms is the goal
    ],
)
def test_delay_decides_upwards_and_use_downwards(loads: list[Load], expected: int) -> None:
    assert wanted(*loads) == expected


def test_what_waits_at_the_proxies_counts_as_delay() -> None:
    calm = Load(0.002, 0.6, cost=0.004)
    assert wanted(calm) == 4
    assert wanted(calm, queued=9.0) == 5  # 2 ms + 9 × 4 ms ÷ 4 = 11 ms
    assert wanted(calm, queued=40.0) == 8


def test_without_a_report_nothing_changes() -> None:
    assert wanted(running=2, target=5) == 5
    assert wanted(Load(1.0, 1.0), running=0, target=3) == 3


@given(loads=LOADS, running=COUNTS, target=COUNTS, queued=st.floats(0, 1e6))
def test_a_step_is_bounded(loads: list[Load], running: int, target: int, queued: float) -> None:
    found = replicas_wanted(loads, running=running, target=target, queued=queued, goals=GOALS)
    assert max(1, running // 2) <= found <= 2 * running


@given(load=st.builds(Load, st.floats(0, 1), st.floats(0, 1)), more=st.floats(0, 1), running=COUNTS)
def test_longer_waiting_never_asks_for_fewer(load: Load, more: float, running: int) -> None:
    longer = load._replace(delay=load.delay + more)
    assert wanted(longer, running=running) >= wanted(load, running=running)


@given(busy=st.floats(0, 1), running=COUNTS)
def test_calm_use_settles_and_does_not_swing(busy: float, running: int) -> None:
    """Following the advice under the same work ends, and never comes back up."""
    work = busy * running
    seen = [running]
    for _ in range(12):
        now = seen[-1]
        seen.append(wanted(Load(0.0, min(work / now, 1.0)), running=now))
    assert seen[-1] == seen[-2]
    steps = [after - before for before, after in pairwise(seen)]
    assert not (min(steps) < 0 < max(steps))


@pytest.mark.parametrize(("delay", "busy"), [(0.0, 0.7), (-1.0, 0.7), (0.1, 0.0), (0.1, 1.0)])
def test_a_goal_that_is_none_is_refused(delay: float, busy: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Goals(delay=delay, busy=busy)


def test_a_window_tells_means_and_begins_anew() -> None:
    window = LoadWindow(10.0)
    window.add(report(3, queue=0.06, compute=0.5))
    window.add(report(1, queue=0.02, compute=0.5))
    assert window.take(14.0, expected_wait=0.0) == Load(0.02, 0.25, 0.25)
    assert window.take(15.0, expected_wait=0.0) == Load(0.0, 0.0, 0.0)


def test_a_queue_nobody_was_answered_from_counts() -> None:
    assert LoadWindow(0.0).take(1.0, expected_wait=0.3).delay == 0.3


def test_the_policy_reads_what_replicas_report() -> None:
    names = Load(0.015, 0.5, 0.001).named()
    metrics = {name: {"one": value, "two": value} for name, value in names.items()}
    assert read_loads(metrics) == [Load(0.015, 0.5, 0.001)] * 2
    context = SimpleNamespace(
        current_num_replicas=2,
        target_num_replicas=2,
        total_queued_requests=None,
        aggregated_metrics=metrics,
    )
    assert QueueDelayPolicy(delay=0.010, busy=0.7)(context) == (3, {})
    context.aggregated_metrics = None
    assert QueueDelayPolicy(delay=0.010, busy=0.7)(context) == (2, {})
