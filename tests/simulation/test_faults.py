"""Every kind of fault does what its name says, as far as a caller, a node or the wire can tell."""

from __future__ import annotations

from collections import Counter

import pytest

from tierline import ClientConfig, ConfigurationError
from tierline.testing import Fault, FaultKind, NodeProfile, Run, simulate, steady_load

from .fleets import fault, fleet

ALONE = fleet(edge=1, cloud=0)
EXACT = NodeProfile(spread=0.0, jitter=0.0, doubt=0.0)
# What the attempts end with while the fault is on, for kinds that every attempt suffers.
ENDS = {
    "cut": "timed_out",
    "one_way": "timed_out",
    "freeze": "timed_out",
    "loss": "timed_out",
    "refuse": "connect_failed",
    "crash": "connect_failed",
    "reset": "remote_protocol_error",
    "eof": "remote_protocol_error",
    "corrupt": "remote_protocol_error",
    "nan": "model_failed",
    "infinite": "model_failed",
    "short": "model_failed",
    "busy": "overloaded",
    "reject": "bad_request",
}


def under(faults: list[Fault], config: ClientConfig = ALONE, rate: float = 20.0) -> Run:
    profiles = {e.url: EXACT for tier in config.tiers for e in tier.endpoints}
    load = steady_load(rate, 2.0)
    return simulate(config, faults=faults, seed=2, load=load, profiles=profiles).check()


def outcomes(run: Run, until: float = 9.0) -> Counter[str]:
    return Counter(a.outcome for o in run.outcomes if o.began < until for a in o.attempts)


@pytest.mark.parametrize(("kind", "outcome"), ENDS.items())
def test_a_certain_fault_ends_every_attempt_in_its_own_way(kind: str, outcome: str) -> None:
    assert set(outcomes(under([fault(kind, "edge-1")]))) == {outcome}


@pytest.mark.parametrize("kind", sorted(ENDS))
def test_when_a_fault_is_over_attempts_succeed_again(kind: str) -> None:
    run = under([fault(kind, "edge-1", length=0.2)])
    late = [outcome for outcome in run.outcomes if outcome.began > 1.7]
    assert [outcome.name for outcome in late] == ["edge"] * len(late)


def test_errors_are_failures_of_the_model_or_the_endpoint() -> None:
    assert set(outcomes(under([fault("errors", "edge-1")]))) <= {"model_failed", "unavailable"}


def test_garbled_pushback_is_never_obeyed() -> None:
    run = under([fault("garbled_busy", "edge-1")])
    assert set(outcomes(run)) == {"remote_protocol_error", "overloaded"}


@pytest.mark.parametrize(
    ("kind", "size", "least"),
    [("latency", 20.0, 0.02), ("drip", 0.1, 0.1), ("slow", 20.0, 0.05)],
)
def test_slowness_is_as_slow_as_its_size_says(kind: str, size: float, least: float) -> None:
    run = under([fault(kind, "edge-1", size=size)])
    assert all(least <= outcome.ended - outcome.began < 2 * least for outcome in run.outcomes)


def test_spikes_are_rare_and_long() -> None:
    run = under([fault("spikes", "edge-1", size=0.02)])
    spans = sorted(outcome.ended - outcome.began for outcome in run.outcomes)
    assert spans[0] < 0.005
    assert spans[-1] > 0.04


def test_duplicates_are_computed_twice_and_answered_once() -> None:
    run = under([fault("duplicate", "edge-1")])
    assert run.computed == 2 * len(run.outcomes)
    assert {outcome.name for outcome in run.outcomes} == {"edge"}


def test_the_answer_of_another_request_is_taken_for_none() -> None:
    run = under([fault("misdirected", "edge-1")])
    assert outcomes(run)["remote_protocol_error"] > 5


def test_lost_capacity_makes_requests_wait() -> None:
    healthy = under([], rate=800.0)
    short_of_workers = under([fault("capacity", "edge-1", size=0.1)], rate=800.0)
    assert max(o.ended - o.began for o in healthy.outcomes) < 0.02
    assert sum(o.answer is None for o in short_of_workers.outcomes) > 100


def test_a_swap_changes_the_bundle_that_answers() -> None:
    run = under([fault("swap", "edge-1", start=1.0)])
    bundles = [outcome.answer.bundle for outcome in run.outcomes if outcome.answer]
    assert len(set(bundles)) == 2
    assert bundles == sorted(bundles)


def test_a_stale_node_answers_with_the_bundle_before() -> None:
    run = under([fault("stale", "edge-1", start=1.0)])
    before = {o.answer.bundle for o in run.outcomes if o.answer and o.began < 0.9}
    after = {o.answer.bundle for o in run.outcomes if o.answer and o.began > 1.1}
    assert max(after) < min(before)


def test_callers_give_up_at_the_rate_asked_for() -> None:
    run = under([Fault(FaultKind.CANCEL, "", 0.0, 4.0, 1.0)], rate=200.0)
    given_up = sum(outcome.name == "cancelled" for outcome in run.outcomes)
    assert 0.3 * len(run.outcomes) < given_up <= len(run.outcomes)


def test_a_stall_delays_everything_in_the_process() -> None:
    run = under([Fault(FaultKind.STALL, "", 1.0, 0.2)])
    assert not [e for e in run.trace.events if 1.0 < e.at < 1.2]


def test_a_drifting_clock_shortens_or_lengthens_what_is_timed() -> None:
    run = under([fault("cut", "edge-1"), Fault(FaultKind.DRIFT, "", 0.0, 4.0, 1.02)])
    first = next(event for event in run.trace.events if event.what == "sent")
    assert first.details[2] == pytest.approx(0.249, abs=1e-6)
    assert outcomes(run)["timed_out"] >= 1


def test_a_fault_at_an_unknown_endpoint_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not in the configuration"):
        under([fault("crash", "nowhere")])


def test_a_fault_that_begins_and_ends_while_the_process_stands_still_is_over_afterwards() -> None:
    stall = fault("stall", start=0.1, length=0.5)
    for start in (0.12, 0.2, 0.3, 0.4):
        run = under([stall, fault("refuse", "edge-1", start=start, length=0.1)])
        assert set(outcomes(run)) <= {"ok", "connect_failed", "lapsed", "timed_out"}
        late = [outcome for outcome in run.outcomes if outcome.began > 1.8]
        assert {outcome.name for outcome in late} == {"edge"}
