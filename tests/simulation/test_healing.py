"""In the end, with every fault mended: calls are answered by a tier, doubtful ones by the cloud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tierline import Answer, Attempt, Unavailable
from tierline.testing import Outcome, PlannedCall, draw_plan, run_plan, run_seed
from tierline.testing.healing import SPELL, complaints, has_resumed

BY = 20.0  # seconds
KEPT = Attempt(1, "first", "edge", "http://edge-1", 0.0, 0.004, "ok")
SENT = Attempt(2, "escalation", "cloud", "http://cloud-1", 0.004, 0.03, "ok")
DOUBTFUL_SEED = 9  # its edges are sure of nothing, its cloud is away from 1.5 s to 4 s


def doubtful(at: float, reason: str, *attempts: Attempt, tier: str = "edge") -> Outcome:
    answer = Answer(
        np.zeros(1, np.float32),
        None,
        tier=tier,
        bundle="v1@000000000000",
        quality="degraded",
        reason=reason,
        uncertainty=0.9,
        attempts=(KEPT, *attempts),
        elapsed=0.004,
    )
    return Outcome(PlannedCall(number=1, at=at, history=(1,)), at, at + 0.004, answer, None)


def refused(at: float, why: str) -> Outcome:
    return doubtful(at, f"escalation_refused: {why}")


def rules(*outcomes: Outcome) -> set[str]:
    return {rule for rule, _ in complaints(outcomes, BY)}


@pytest.mark.parametrize("why", ["breaker", "threshold", "deadline", "breaker; reduced_view"])
def test_refusals_without_an_end_and_without_a_ground_are_found(why: str) -> None:
    spell = [refused(BY + 0.1 * i, why) for i in range(SPELL)]
    assert rules(*spell) == {"escalation resumes"}
    assert rules(*spell[1:]) == set()
    assert not list(complaints(spell, BY, escalates=False))


def test_a_budget_that_is_spent_is_a_ground() -> None:
    assert rules(*(refused(BY + 0.1 * i, "budget") for i in range(50))) == set()


@pytest.mark.parametrize(("before", "found"), [(1.0, False), (12.0, True)])
def test_one_escalation_lately_shows_that_they_are_sent(before: float, found: bool) -> None:
    sent = doubtful(BY - before, "escalated", SENT)
    spell = [refused(BY + 0.01 * i, "threshold") for i in range(SPELL)]
    assert ("escalation resumes" in rules(sent, *spell)) is found


def test_what_was_refused_before_everything_was_mended_is_no_complaint() -> None:
    assert rules(*(refused(BY - 5.0 + 0.1 * i, "breaker") for i in range(40))) == set()


def test_one_late_call_may_fail_and_two_may_not() -> None:
    fallback = doubtful(BY, "last_good_answer: timed_out", tier="client")
    assert rules(fallback) == set()
    assert rules(fallback, fallback) == {"what was mended heals"}


def test_who_fails_fast_in_a_panic_that_one_false_timeout_began_is_no_complaint() -> None:
    timed_out = doubtful(BY, "last_good_answer: timed_out", tier="client")
    refusal = Unavailable("every breaker is open")
    nobody = Outcome(PlannedCall(number=1, at=BY, history=(1,)), BY, BY, None, refusal)
    answered = doubtful(BY + 0.2, "no_cloud")
    panic = [timed_out, *[nobody] * 4]
    assert not list(complaints([*panic, answered], BY, fails_fast=True))
    assert list(complaints([*panic, answered], BY))
    assert list(complaints(panic, BY, fails_fast=True))  # it lasts
    assert not list(complaints([doubtful(BY - 3.0, "no_cloud"), *panic], BY, fails_fast=True))
    assert list(complaints([doubtful(BY - 6.0, "no_cloud"), *panic], BY, fails_fast=True))
    assert list(complaints([*panic, timed_out, answered], BY, fails_fast=True))


def test_what_only_callers_in_haste_have_asked_nobody_could_find_mended() -> None:
    refusal = Unavailable("every breaker is open")
    nobody = Outcome(PlannedCall(number=1, at=BY, history=(1,)), BY, BY, None, refusal)

    def asked(for_seconds: float, at: float, outcome: str = "timed_out") -> Outcome:
        attempt = Attempt(1, "first", "edge", "http://edge-1", 0.0, for_seconds, outcome)
        call = PlannedCall(number=1, at=at, history=(1,))
        failure = Unavailable("late")
        failure.attempts = (attempt,)
        return Outcome(call, at, at + for_seconds, None, failure)

    hasty = asked(0.005, BY - 3.0)
    assert not list(complaints([hasty, nobody, nobody], BY))
    answered = asked(0.005, BY - 4.0, "ok")  # and then one in haste has opened the breaker
    assert not list(complaints([answered, hasty, nobody, nobody], BY))
    assert list(
        complaints([asked(0.005, BY - 7.0, "ok"), asked(0.005, BY - 6.0), *[nobody] * 2], BY)
    )
    for other in (asked(0.2, BY - 2.0), asked(0.005, BY - 2.0, "ok"), asked(0.005, BY + 0.1)):
        assert list(complaints([hasty, other, nobody, nobody], BY))
    assert list(complaints([asked(0.005, BY - 15.0), nobody, nobody], BY))


def test_where_only_callers_in_haste_have_escalated_refusals_have_a_ground() -> None:
    spell = [refused(BY + 0.01 * i, "breaker") for i in range(SPELL)]
    hasty = Attempt(2, "escalation", "cloud", "http://cloud-1", 0.004, 0.009, "timed_out")
    patient = Attempt(2, "escalation", "cloud", "http://cloud-1", 0.004, 0.204, "timed_out")
    early, lately = doubtful(BY - 13.0, "no"), doubtful(BY - 12.0, "no", hasty)
    assert rules(early, lately, *spell) == set()
    assert rules(early, lately, doubtful(BY - 12.5, "no", patient), *spell) != set()
    assert rules(early, doubtful(BY - 15.0, "no", hasty), *spell) != set()
    after = doubtful(BY + 0.5, "escalated", SENT)  # what comes later changes nothing
    assert rules(early, lately, *spell, after) == set()


@pytest.mark.parametrize(
    "seed",
    [
        4988,
        5552,
        10369,
        10947,
        14788,
        18541,
        25354,
        31245,
        57329,
        66401,
        71380,
        80145,
        81228,
        104991,
        110031,
        131816,
        139297,
        165035,
        181711,
        194324,
    ],
)
def test_seeds_of_earlier_nights_hold(seed: int) -> None:
    assert run_seed(seed).violations == ()


def test_resumed_means_refused_before_and_escalated_after() -> None:
    early, late = refused(BY - 1.0, "breaker"), doubtful(BY + 1.0, "escalated", SENT)
    assert has_resumed([early, late], BY)
    assert not has_resumed([early], BY)
    assert not has_resumed([late], BY)


def test_escalations_resume_in_a_doubtful_scenario_and_only_when_the_cloud_is_back() -> None:
    plan = draw_plan(DOUBTFUL_SEED)
    assert run_plan(plan, seed=DOUBTFUL_SEED).seen["escalation resumed"]
    for_ever = tuple(
        fault._replace(length=30.0) if "cloud" in fault.target else fault for fault in plan.faults
    )
    run = run_plan(replace(plan, faults=for_ever), seed=DOUBTFUL_SEED)
    assert not run.seen["escalation resumed"]
