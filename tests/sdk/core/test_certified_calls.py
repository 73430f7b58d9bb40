"""Answers carry what their bundle's certificate is worth, in every mode, and lose it when it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tierline._config import EscalationPolicy, Mode, Sovereignty
from tierline._core.certified import Learn, Shadow
from tierline._core.commands import Finish, StartAttempt
from tierline._core.fleet import Fleet
from tierline._core.shadow_call import ShadowCall
from tierline._exceptions import ConnectFailed, ModelFailed
from tierline._types import Answer
from tierline.wire import ScoreReply

from .certificates import (
    CERTIFICATE,
    CLOUD_BUNDLE,
    CLOUD_LIST,
    EDGE_BUNDLE,
    EDGE_SURE,
    EDGE_UNSURE,
    OTHER,
    RECOMMEND,
    SAME,
    edge_description,
    listing,
)
from .certified import ask, certified, failing, status
from .fixtures import Driver, config

OF_NO_LENGTH = replace(CERTIFICATE, loss="L_agree")  # of lists of how many?


def test_a_kept_and_an_escalated_answer_carry_the_certificate() -> None:
    fleet = certified()
    for edge in (EDGE_SURE, EDGE_UNSURE):
        said = status(ask(fleet, edge))
        assert said == CERTIFICATE.status(threshold=None)
        assert said.valid


def test_without_a_certificate_an_answer_has_none() -> None:
    fleet = certified(certificate=None)
    assert ask(fleet, EDGE_SURE).certificate is None


@pytest.mark.parametrize("mode", [Mode.EDGE_ONLY, Mode.CLOUD_ONLY])
def test_a_call_that_chooses_its_tier_is_not_what_was_certified(mode: Mode) -> None:
    fleet = certified()
    first = EDGE_SURE if mode is Mode.EDGE_ONLY else CLOUD_LIST
    assert ask(fleet, first, mode=mode).certificate is None


@pytest.mark.parametrize("part", ["model", "catalogue", "quantization"])
def test_an_edge_that_serves_something_else_voids_it(part: str) -> None:
    said = status(ask(certified(**{part: "e" * 64}), EDGE_SURE))
    assert said.reasons == (f"{part} changed since calibration",)


def test_a_cloud_that_answers_from_another_bundle_voids_it_and_the_old_one_brings_it_back() -> None:
    fleet = certified()
    assert status(ask(fleet, EDGE_UNSURE, listing("2@999999999999", OTHER))).reasons == (
        "the cloud changed since calibration",
    )
    assert not status(ask(fleet, EDGE_SURE)).valid
    assert status(ask(fleet, EDGE_UNSURE)).valid


def test_before_a_cloud_has_spoken_nothing_is_claimed_of_it() -> None:
    fleet = Fleet(config())
    fleet.control("ranker").edge_described(EDGE_BUNDLE, edge_description())
    assert status(ask(fleet, EDGE_SURE)).reasons == (
        "no cloud has said yet which bundle it serves",
    )


def test_another_edge_bundle_has_no_certificate_and_the_first_keeps_its_own() -> None:
    fleet = certified()
    assert ask(fleet, EDGE_SURE._replace(bundle="2@ffffffffffff")).certificate is None
    assert status(ask(fleet, EDGE_SURE)).valid


def test_given_candidates_and_shorter_lists_are_not_what_was_calibrated() -> None:
    fleet = certified()
    scores = Driver(fleet, key=None)
    shorter = RECOMMEND._replace(k=5)
    told = [
        status(scores.succeed(EDGE_SURE._replace(scores=EDGE_SURE.scores[:3])).answer),
        status(ask(fleet, listing(EDGE_BUNDLE, SAME[:5], 0.3), request=shorter)),
    ]
    assert [said.valid for said in told] == [False, False]
    assert "not given candidates" in told[0].reasons[0]
    assert "lists of 10 items, not of 5" in told[1].reasons[0]


@pytest.mark.parametrize(
    ("policy", "refusal"),
    [
        (EscalationPolicy(budget=0.0, burst=0.0), "budget"),
        (EscalationPolicy(mode="quality_first", budget=0.0, burst=1.0), "budget"),
    ],
)
def test_a_call_the_budget_forces_to_the_edge_counts_into_the_bound(
    policy: EscalationPolicy, refusal: str
) -> None:
    fleet = certified(policy)
    if policy.moves:
        ask(fleet, EDGE_UNSURE)
    for _ in range(98):
        ask(fleet, EDGE_SURE)
    answer = ask(fleet, EDGE_UNSURE)
    assert answer.reason == f"escalation_refused: {refusal}"
    seen = 100 if policy.moves else 99
    said = status(answer)
    assert (said.valid, said.alpha) == (False, pytest.approx(0.05 + 1 / seen))
    assert "forced to the edge" in said.reasons[0]


def test_an_escalation_the_cloud_fails_counts_as_forced() -> None:
    fleet = certified()
    driver = Driver(fleet, request=RECOMMEND, key=None).succeed(EDGE_UNSURE)
    said = status(failing(driver, ModelFailed("NaN")))
    assert (said.valid, said.alpha) == (False, 1.0)


def test_a_doubtful_call_kept_from_the_cloud_by_its_own_policy_counts_as_forced() -> None:
    fleet = certified()
    driver = Driver(fleet, request=RECOMMEND, key=None)
    driver.call._tiers = [tier for tier in fleet.permitted if tier.is_edge]
    answer = driver.succeed(EDGE_UNSURE).answer
    assert (answer.tier, status(answer).alpha) == ("edge", 1.0)


def test_a_fallback_answer_says_that_neither_tier_answered() -> None:
    fleet = certified()
    ask(fleet, EDGE_SURE, key="user")
    answer = failing(Driver(fleet, request=RECOMMEND, key="user"), ConnectFailed("refused"))
    assert answer.tier == "client"
    said = status(answer)
    assert not said.valid
    assert "neither tier answered this call" in said.reasons


def test_budget_first_reports_the_curves_bound_at_the_threshold_of_the_call() -> None:
    fleet = certified(EscalationPolicy(mode="budget_first", budget=0.2))
    dice, answers = random.Random(3), list[Answer]()
    for _ in range(2000):
        answers.append(ask(fleet, EDGE_SURE._replace(uncertainty=dice.random())))
    share = sum(answer.tier != "edge" for answer in answers) / len(answers)
    assert share == pytest.approx(0.2, abs=0.04)
    said = status(answers[-1])
    assert said.alpha == CERTIFICATE.bound_at(said.threshold)
    assert said.threshold == pytest.approx(0.8, abs=0.12)


def test_quality_first_escalates_all_the_certificate_demands_and_stays_valid() -> None:
    fleet = certified(EscalationPolicy(mode="quality_first", budget=0.1, cap=1.0))
    dice = random.Random(4)
    for _ in range(1000):
        doubt = dice.random()
        answer = ask(fleet, EDGE_SURE._replace(uncertainty=doubt))
        assert status(answer).valid
        assert (answer.tier != "edge") or doubt <= CERTIFICATE.threshold


def test_a_report_tells_how_the_escalations_stand() -> None:
    fleet = certified(EscalationPolicy(mode="quality_first", budget=0.1, cap=1.0, shadow=0.5))
    dice = random.Random(8)
    for _ in range(1200):
        ask(fleet, EDGE_SURE._replace(uncertainty=dice.random()))
    control = fleet.control("ranker").current
    assert control is not None
    told = control.report()
    assert (told.mode, told.bundle, told.revoked) == ("quality_first", EDGE_BUNDLE, False)
    assert told.demanded == pytest.approx(0.5, abs=0.06)  # what lies above the certified threshold
    assert told.overspends  # five times the budget, which the cap allows
    assert told.forced == 0.0
    assert told.log_wealth is not None
    assert told.certificate == CERTIFICATE.status(threshold=None)


# -- learning ------------------------------------------------------------------------------------


def test_the_first_answer_of_a_bundle_has_its_endpoint_asked_once() -> None:
    fleet = Fleet(config())
    first = Driver(fleet, request=RECOMMEND, key=None)
    edge = first.started.endpoint.url
    first.succeed(EDGE_SURE)
    asked = list(fleet.errands)
    assert asked[0] == Learn("ranker", edge, EDGE_BUNDLE)
    assert [errand.bundle for errand in asked[1:] if isinstance(errand, Learn)] == ["", ""]
    ask(fleet, EDGE_SURE)
    assert list(fleet.errands) == asked
    later = Driver(fleet, request=RECOMMEND, key=None, begin=100.0)
    later.succeed(EDGE_SURE, at=100.01)  # it was never told: it is asked again, after a while
    assert len(fleet.errands) > len(asked)


def test_a_bundle_that_says_it_has_none_is_not_asked_again() -> None:
    fleet = certified(certificate=None)
    Driver(fleet, request=RECOMMEND, key=None, begin=1e6).succeed(EDGE_SURE, at=1e6)
    assert not fleet.errands


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.update(details=None),
        lambda told: told["details"].update(certificate={"id": "x"}),
        lambda told: told["details"].update(subject={"model": "a"}),
        lambda told: told["details"].pop("subject"),
        lambda told: told["details"].update(subject=[]),
        lambda told: told["details"].update(certificate=OF_NO_LENGTH.to_json()),
    ],
)
def test_a_description_that_makes_no_sense_is_no_certificate(
    spoil: Callable[[dict[str, Any]], None],
) -> None:
    fleet, told = Fleet(config()), edge_description()
    spoil(told)
    fleet.control("ranker").edge_described(EDGE_BUNDLE, told)
    assert ask(fleet, EDGE_SURE).certificate is None


def test_a_fleet_without_a_cloud_has_nothing_to_compare_with() -> None:
    whole = config()
    fleet = Fleet(config(tiers=whole.tiers[:1]))
    assert ask(fleet, EDGE_UNSURE).certificate is None
    assert not fleet.errands


# -- shadows -------------------------------------------------------------------------------------


def shadowed(rate: float = 1.0, **changes: Any) -> Fleet:
    return certified(EscalationPolicy(burst=1e6, shadow=rate, **changes))


def show(fleet: Fleet, shadow: Shadow, cloud: ScoreReply, seed: int = 1) -> Answer:
    """Carry a shadow to its end, as a shell does."""
    dice = random.Random(seed)
    call = ShadowCall.of(shadow, fleet, deadline=1.0, call_id="s", dice=dice)
    [start] = call.begin(0.0)
    assert isinstance(start, StartAttempt)
    assert start.endpoint.tier in ("private", "public")
    [finish] = call.attempt_succeeded(start.number, cloud, 0.01)
    assert isinstance(finish, Finish)
    assert finish.answer is not None
    shadow.control.saw(shadow, finish.answer)
    return finish.answer


def waiting(fleet: Fleet) -> list[Shadow]:
    found = [errand for errand in fleet.errands if isinstance(errand, Shadow)]
    fleet.errands.clear()
    return found


def test_kept_calls_are_shadowed_at_about_the_rate_and_escalated_ones_never() -> None:
    fleet, dice, drawn = shadowed(0.1), random.Random(5), 0
    for _ in range(2000):
        ask(fleet, EDGE_SURE._replace(uncertainty=0.49 * dice.random()), seed=dice.getrandbits(32))
        drawn += len(waiting(fleet))
    assert drawn / 2000 == pytest.approx(0.1, abs=0.05)
    for _ in range(100):
        ask(fleet, EDGE_UNSURE)
    assert not waiting(fleet)


def test_shadows_that_agree_ring_nothing_and_shadows_that_differ_revoke_the_certificate() -> None:
    fleet = shadowed(0.2)
    dice, calls = random.Random(6), 0
    for _ in range(2000):
        ask(fleet, EDGE_SURE, seed=dice.getrandbits(32))
        for shadow in waiting(fleet):
            show(fleet, shadow, CLOUD_LIST)
    assert status(ask(fleet, EDGE_SURE)).valid
    while status(ask(fleet, EDGE_SURE, seed=dice.getrandbits(32))).valid:
        calls += 1
        for shadow in waiting(fleet):
            show(fleet, shadow, listing(CLOUD_BUNDLE, OTHER))
        assert calls < 2000
    said = status(ask(fleet, EDGE_SURE))
    assert said.reasons[0] == "the loss of shadowed calls is above the bound"
    waiting(fleet)
    ask(fleet, EDGE_SURE)
    assert not waiting(fleet)  # there is nothing left to watch


def test_after_an_alarm_the_whole_budget_goes_to_the_most_uncertain_calls() -> None:
    fleet = shadowed(0.2, budget=0.5)
    control = fleet.control("ranker").of(EDGE_BUNDLE, 0.5)
    control.revoke("rang")
    dice, tiers = random.Random(7), list[str]()
    for _ in range(1500):
        doubt = 0.5 * dice.random()  # none would have been escalated before
        tiers.append(ask(fleet, EDGE_SURE._replace(uncertainty=doubt)).tier)
    assert sum(tier != "edge" for tier in tiers) / 1500 == pytest.approx(0.5, abs=0.06)


def test_a_shadow_shows_a_cloud_that_has_changed_and_says_nothing_of_the_bound() -> None:
    fleet = shadowed()
    ask(fleet, EDGE_SURE)
    [shadow] = waiting(fleet)
    before = fleet.control("ranker").of(EDGE_BUNDLE, 0.5).alarm
    assert before is not None
    wealth = before.log_wealth
    show(fleet, shadow, listing("2@999999999999", OTHER))
    assert before.log_wealth == wealth
    assert status(ask(fleet, EDGE_SURE)).reasons == ("the cloud changed since calibration",)


def test_what_may_not_reach_the_cloud_is_not_shadowed() -> None:
    fleet = shadowed()
    whole = config()
    local = Sovereignty(regions=("here",))
    assert not any(local.permits(tier) for tier in whole.tiers)
    only_edge = [tier for tier in fleet.permitted if tier.is_edge]
    driver = Driver(fleet, request=RECOMMEND, key=None)
    driver.call._tiers = only_edge  # as a policy that leaves the edge alone makes it
    driver.succeed(EDGE_SURE)
    assert driver.answer.tier == "edge"
    assert not waiting(fleet)


def test_a_shadow_makes_one_attempt_and_earns_and_spends_nothing() -> None:
    fleet = shadowed()
    ask(fleet, EDGE_SURE)
    [shadow] = waiting(fleet)
    tier = fleet.tiers[1]
    before = (tier.budget.requests.total(0.0), fleet.calls.total(0.0))
    call = ShadowCall.of(shadow, fleet, deadline=1.0, call_id="s", dice=random.Random(1))
    [start] = call.begin(0.0)
    assert isinstance(start, StartAttempt)
    [finish] = call.attempt_failed(start.number, ModelFailed("NaN"), 0.01)
    assert isinstance(finish, Finish)
    assert finish.answer is None
    assert (tier.budget.requests.total(0.0), fleet.calls.total(0.0)) == before
    assert [endpoint.inflight for endpoint in fleet.endpoints()] == [0] * 4


def test_a_shadow_never_probes_a_breaker() -> None:
    fleet = shadowed()
    ask(fleet, EDGE_SURE)
    [shadow] = waiting(fleet)
    for tier in fleet.tiers[1:]:
        breaker = tier.endpoints[0].breaker("ranker")
        for _ in range(20):
            permit = breaker.acquire(0.0, 1.0)
            if permit is not None:
                breaker.failed(permit, 0.0, 0.5)
    call = ShadowCall.of(shadow, fleet, deadline=60.0, call_id="s", dice=random.Random(1))
    [finish] = call.begin(30.0)  # by now both would let a probe through
    assert isinstance(finish, Finish)
    assert finish.answer is None
