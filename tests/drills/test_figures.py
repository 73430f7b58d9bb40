"""Figures and timelines of logs whose truth is known."""

from __future__ import annotations

import dataclasses

import logs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_drills import figures
from tierline_drills.records import CONTROL, EXPERIMENT, Belief, Count, Event, Log, Tried
from tierline_drills.report import report
from tierline_drills.statistics import percentile, provable, wilson
from tierline_drills.timeline import Timeline, timeline


def test_the_six_instants_of_a_crash_are_found() -> None:
    line = timeline(logs.crash())
    assert (line.inject, line.symptom, line.detected) == (10.0, 10.005, 10.2)
    assert (line.mitigated, line.cleared, line.recovered) == (10.0, 15.0, 16.0)


def test_callers_who_fail_put_the_mitigation_off() -> None:
    line = timeline(logs.crash(failed=10))
    assert line.mitigated == pytest.approx(10.51, abs=0.02)


def test_a_drill_that_never_heals_has_no_end() -> None:
    log = logs.crash()
    log.beliefs.pop()  # the breaker never closes again
    assert timeline(log).recovered is None
    assert report(log)["recovery"]["mttr"] is None


def test_a_standby_that_nobody_needs_does_not_put_the_recovery_off() -> None:
    log = logs.crash()
    log.beliefs.append(Belief(EXPERIMENT, 0, 11.0, "cloud-2", "open", False))
    assert timeline(log.sort()).recovered == 16.0


def test_slow_calls_put_the_recovery_off() -> None:
    log = logs.crash()
    slow = [c._replace(ended=c.ended + 0.05) if 15 < c.due < 19 else c for c in log.calls]
    line = timeline(dataclasses.replace(log, calls=slow))
    assert line.recovered == pytest.approx(18.95, abs=0.06)


def test_detection_counts_a_watcher_and_not_what_came_before() -> None:
    log = logs.crash()
    log.beliefs.insert(0, Belief(EXPERIMENT, 0, 3.0, "edge-1", "open", False))
    log.beliefs.insert(1, Belief(EXPERIMENT, 0, 4.0, "edge-1", "closed", False))
    log.events.append(Event(10.1, "alert", "EdgeDown", ("edge-1",)))
    assert timeline(log.sort()).detected == 10.1


def test_everybody_has_detected_only_when_the_last_client_has() -> None:
    log = logs.crash()
    log.calls.append(logs.call(9999, 12.0, client=1))
    assert timeline(log.sort()).all_detected is None
    log.beliefs.append(Belief(EXPERIMENT, 1, 10.4, "edge-1", "open", False))
    assert timeline(log.sort()).all_detected == 10.4


def test_availability_counts_late_failed_and_wrong_calls_as_bad() -> None:
    calls = [
        logs.call(1, 0.0),
        logs.call(2, 0.1, quality="degraded"),
        logs.call(3, 0.2, latency=0.5),
        logs.call(4, 0.3, error="DeadlineExceeded: too late"),
        logs.call(5, 0.4, wrong="not what its bundle says"),
    ]
    found = figures.availability(calls, logs.DRILL)
    assert (found["any"], found["full"]) == (0.4, 0.2)
    assert (found["failed"], found["late"]) == (1, 1)
    assert figures.safety(Log(logs.DRILL), calls, Timeline())["wrong_answers"] == 1


def test_a_retry_amplifies_and_an_escalation_does_not() -> None:
    log = logs.crash()
    retried = next(call for call in log.calls if len(call.attempts) == 2)
    assert figures.ratio([retried]) == 2.0
    escalated = retried._replace(
        attempts=(retried.attempts[0], retried.attempts[1]._replace(kind="escalation"))
    )
    assert figures.ratio([escalated]) == 1.0


def test_the_budget_is_a_share_of_what_a_month_allows() -> None:
    log = logs.crash(failed=10)
    found = figures.budget(log.calls, logs.DRILL, (10.0, 15.0))
    assert found["bad"] == 10
    assert found["share_of_month"] == pytest.approx(10 / (0.001 * 20 * 2_592_000))
    assert found["burn_rate"] == pytest.approx(0.1 / 0.001)


def test_what_was_not_counted_is_not_zero() -> None:
    log = logs.crash()
    log.counts.append(Count("forbidden_bytes", 0.0))
    found = figures.safety(log, log.calls, timeline(log))
    assert found["forbidden_bytes"] == 0.0
    assert found["audit_gaps"] is None


def test_a_report_passes_only_when_every_bar_holds() -> None:
    bars = (
        {"figure": "recovery.mttd", "at_most": 0.5},
        {"figure": "availability.failed", "exactly": 0},
    )
    good, bad = logs.crash(), logs.crash(failed=3)
    for log in (good, bad):
        log.drill = dataclasses.replace(log.drill, bars=bars)
    assert report(good)["passed"] is True
    assert report(bad)["passed"] is False
    assert [row["holds"] for row in report(bad)["bars"]] == [True, False]


def test_a_bar_on_a_figure_that_is_not_there_is_missed() -> None:
    log = logs.crash()
    log.drill = dataclasses.replace(log.drill, bars=({"figure": "no.such", "at_most": 1},))
    assert report(log)["passed"] is False


def test_a_stopped_drill_has_not_passed() -> None:
    log = logs.crash()
    log.events.append(Event(12.0, "stop", "error budget burnt"))
    assert report(log.sort())["passed"] is False


def test_a_control_fleet_that_fails_too_makes_the_run_invalid() -> None:
    log = logs.crash()
    broken = [logs.call(i, i / 20, group=CONTROL, error="Unavailable: x") for i in range(100)]
    log.calls += broken
    assert report(log.sort())["control"]["invalid"] is True
    assert report(log)["passed"] is False


def test_the_share_of_a_faulted_endpoint_is_told_beside_its_fair_share() -> None:
    log = logs.crash()
    share = report(log)["targets"]["edge-1"]
    assert share["fair"] == 0.5
    assert share["share"] == pytest.approx(1 / 101)


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


@given(st.integers(0, 500), st.integers(1, 500))
def test_an_interval_holds_its_share(good: int, total: int) -> None:
    good = min(good, total)
    low, high = wilson(good, total)
    assert 0 <= low <= good / total + 1e-12
    assert good / total - 1e-12 <= high <= 1


def test_three_nines_need_three_thousand_calls() -> None:
    assert provable(3000) == pytest.approx(0.999)
    assert provable(2) == 0.0


def test_an_endpoint_is_left_out_from_the_first_second_in_which_it_gets_next_to_nothing() -> None:
    # Ten attempts a second at each of two endpoints; from 12 s on the second one gets none.
    def tried(endpoint: str, at: float) -> Tried:
        return Tried(1, "first", "edge", endpoint, at, at, "ok")

    attempts = [tried("edge-1", i / 10) for i in range(200)]
    attempts += [tried("edge-2", i / 10) for i in range(120)]
    found = figures.left_out(attempts, "edge-2", 2, (10.0, 20.0))
    assert found == pytest.approx(1.9, abs=0.15)  # one of eleven in that second: below an eighth
    assert figures.left_out(attempts, "edge-1", 2, (10.0, 20.0)) is None
