"""What one call does, event by event, at instants the test chooses."""

from __future__ import annotations

import numpy as np
import pytest
import tenacity

from tierline import _exceptions as errors
from tierline._config import EscalationPolicy, HedgePolicy, Mode, RetryPolicy
from tierline._core.commands import CancelAttempt, StartAttempt, WakeAt
from tierline._core.endings import keeps_pin
from tierline._core.fallback import Prior
from tierline._core.fleet import Fleet
from tierline.wire import ScoreRequest

from .fixtures import (
    CLOUD,
    EDGE_A,
    EDGE_B,
    PRIVATE,
    PUBLIC,
    REQUEST,
    SURE,
    UNSURE,
    Driver,
    config,
    reply,
)

PRIOR = Prior("v1@0", np.array([-np.inf, *range(1, 12)], np.float32))


def test_a_certain_edge_answer_is_kept_and_named() -> None:
    answer = Driver(Fleet(config())).succeed(SURE).answer
    assert (answer.tier, answer.quality, answer.reason) == ("edge", "edge", "certain")
    assert answer.bundle == "v1@000000000000"
    assert answer.top(1) == [(7, pytest.approx(0.3))]
    assert [a.outcome for a in answer.attempts] == ["ok"]


def test_an_unsure_edge_answer_is_replaced_by_the_private_cloud() -> None:
    driver = Driver(Fleet(config())).succeed(UNSURE)
    assert driver.started.endpoint.url == PRIVATE
    answer = driver.succeed(CLOUD, at=0.05).answer
    assert (answer.tier, answer.quality, answer.reason) == ("private", "full", "escalated")
    assert answer.bundle == CLOUD.bundle
    assert [a.kind for a in answer.attempts] == ["first", "escalation"]


def test_the_policy_threshold_overrules_the_bundles() -> None:
    keep_all = config(escalation=EscalationPolicy(threshold=0.95))
    assert Driver(Fleet(keep_all)).succeed(UNSURE).answer.tier == "edge"


def test_a_failing_private_cloud_is_followed_by_the_public_one() -> None:
    driver = Driver(Fleet(config())).succeed(UNSURE)
    driver.fail(errors.Unavailable("draining"), at=0.02)
    assert driver.started.endpoint.url == PUBLIC
    assert driver.succeed(CLOUD, at=0.03).answer.tier == "public"


def test_when_every_cloud_fails_the_edge_answer_is_returned_and_says_so() -> None:
    driver = Driver(Fleet(config())).succeed(UNSURE)
    driver.fail(errors.AttemptTimedOut("late"), at=0.1).fail(errors.Unavailable("no"), at=0.248)
    answer = driver.answer
    assert (answer.tier, answer.quality) == ("edge", "degraded")
    assert answer.reason == "escalation_failed: unavailable"


def test_a_request_the_cloud_calls_wrong_is_shown_to_no_other_tier() -> None:
    driver = Driver(Fleet(config())).succeed(UNSURE).fail(errors.BadRequest("no such input"))
    assert driver.answer.reason == "escalation_failed: bad_request"
    assert [a.tier for a in driver.answer.attempts] == ["edge", "private"]


def test_an_exhausted_escalation_budget_keeps_the_edge_answer() -> None:
    fleet = Fleet(config(escalation=EscalationPolicy(budget=0.0, burst=1.0)))
    assert Driver(fleet).succeed(UNSURE).started.endpoint.url == PRIVATE
    answer = Driver(fleet).succeed(UNSURE).answer
    assert (answer.quality, answer.reason) == ("degraded", "escalation_refused: budget")


def test_too_little_time_for_the_cloud_keeps_the_edge_answer() -> None:
    answer = Driver(Fleet(config())).succeed(UNSURE, at=0.249).answer
    assert answer.reason == "escalation_refused: deadline"


def test_open_cloud_breakers_keep_the_edge_answer_without_spending_budget() -> None:
    fleet = Fleet(config())
    for tier in fleet.tiers[1:]:
        breaker = tier.endpoints[0].breaker("ranker")
        for _ in range(5):
            permit = breaker.acquire(0.0, 1.0)
            assert permit is not None
            breaker.failed(permit, 0.0, 0.0)
    before = fleet.escalations.balance(0.01)
    answer = Driver(fleet).succeed(UNSURE).answer
    assert answer.reason == "escalation_refused: breaker"
    assert fleet.escalations.balance(0.01) == pytest.approx(before + 0.2)


@pytest.mark.parametrize("policy", [EscalationPolicy(), EscalationPolicy(mode="budget_first")])
def test_a_call_without_an_attempt_left_says_so_and_spends_no_escalation(
    policy: EscalationPolicy,
) -> None:
    fleet = Fleet(config(retry=RetryPolicy(attempts=1), escalation=policy))
    before = fleet.escalations.balance(0.01)
    for _ in range(20):
        answer = Driver(fleet).succeed(UNSURE).answer
        assert answer.reason == "escalation_refused: attempts"
    assert fleet.escalations.balance(0.01) >= before


def test_a_failed_edge_endpoint_is_followed_by_the_other_one() -> None:
    driver = Driver(Fleet(config()))
    first = driver.started.endpoint.url
    driver.fail(errors.ConnectFailed("refused"))
    assert {first, driver.started.endpoint.url} == {EDGE_A, EDGE_B}
    answer = driver.succeed(SURE, at=0.02).answer
    assert (answer.tier, answer.reason) == ("edge", "certain")
    assert [a.outcome for a in answer.attempts] == ["connect_failed", "ok"]


def test_a_dead_edge_tier_is_followed_by_the_cloud() -> None:
    driver = Driver(Fleet(config()))
    driver.fail(errors.ConnectFailed("refused")).fail(errors.ConnectFailed("refused"))
    assert driver.started.endpoint.url == PRIVATE
    answer = driver.succeed(CLOUD).answer
    assert (answer.quality, answer.reason) == ("full", "edge_failed: connect_failed")


def _exhaust(driver: Driver, error: errors.TierlineError) -> Driver:
    while any(isinstance(c, StartAttempt) for c in driver.commands):
        driver.fail(error)
    return driver


def test_with_all_tiers_down_the_last_good_answer_for_the_key_is_given() -> None:
    fleet = Fleet(config())
    Driver(fleet).succeed(SURE)
    answer = _exhaust(Driver(fleet), errors.ConnectFailed("refused")).answer
    assert (answer.tier, answer.quality) == ("client", "degraded")
    assert answer.reason == "last_good_answer: connect_failed"
    assert answer.bundle == SURE.bundle
    np.testing.assert_array_equal(answer.scores, SURE.scores)


def test_a_last_good_answer_lacking_a_candidate_is_not_given() -> None:
    fleet = Fleet(config())
    Driver(fleet).succeed(SURE)
    other = ScoreRequest(
        model="ranker", query=REQUEST.query, candidates={"id": np.array([7, 99, 9])}
    )
    driver = _exhaust(Driver(fleet, request=other), errors.ConnectFailed("refused"))
    with pytest.raises(errors.Unavailable):
        _ = driver.answer


def test_without_a_last_good_answer_the_popularity_prior_is_given() -> None:
    fleet = Fleet(config())
    fleet.priors["ranker"] = PRIOR
    answer = _exhaust(Driver(fleet), errors.ConnectFailed("refused")).answer
    assert answer.reason == "popularity_prior: connect_failed"
    assert answer.bundle == PRIOR.bundle
    np.testing.assert_array_equal(answer.scores, [7, 8, 9])


def test_a_recommendation_from_the_prior_leaves_out_the_history() -> None:
    fleet = Fleet(config())
    fleet.priors["ranker"] = PRIOR
    wanted = ScoreRequest(model="ranker", query={"history": np.array([11, 10])}, k=3)
    answer = _exhaust(Driver(fleet, request=wanted), errors.ConnectFailed("refused")).answer
    assert answer.items is not None
    assert answer.items.tolist() == [9, 8, 7]


def test_without_any_fallback_one_typed_error_carries_every_attempt() -> None:
    driver = _exhaust(Driver(Fleet(config())), errors.ConnectFailed("refused"))
    with pytest.raises(errors.Unavailable, match="refused") as caught:
        _ = driver.answer
    assert [a.tier for a in caught.value.attempts] == ["edge", "edge", "private", "public"]
    assert isinstance(caught.value.__cause__, errors.ConnectFailed)


def test_a_call_that_ends_at_its_deadline_says_so() -> None:
    fleet = Fleet(config(retry=RetryPolicy(attempts=1)))
    driver = Driver(fleet).fail(errors.AttemptTimedOut("late"), at=0.249)
    with pytest.raises(errors.DeadlineExceeded, match="250 ms"):
        _ = driver.answer


def test_a_bad_request_is_final_at_once() -> None:
    driver = Driver(Fleet(config())).fail(errors.BadRequest("no such input"))
    with pytest.raises(errors.BadRequest, match="no such input") as caught:
        _ = driver.answer
    assert len(caught.value.attempts) == 1


@pytest.mark.parametrize(
    ("items", "scores", "sound"),
    [
        ([5, 6, 7], [3.0, 2.0, 1.0], True),
        ([5, 6, -1], [3.0, 2.0, -np.inf], True),
        ([5, 6, 7], [3.0, 2.0, -np.inf], False),
        ([5, 6, 7], [np.inf, 2.0, 1.0], False),
        ([5, 6, -1], [3.0, 2.0, np.inf], False),
        ([5, 6, 7], [3.0, np.nan, 1.0], False),
        ([5, 6, 7], [3.0, 2.0], False),
        ([5, 6], [3.0, 2.0], False),
        (None, [3.0, 2.0, 1.0], False),
    ],
)
def test_a_recommendation_holds_k_numbers_and_minus_infinity_only_where_no_item_was_left(
    items: list[int] | None, scores: list[float], sound: bool
) -> None:
    wanted = ScoreRequest(model="ranker", query={"history": np.array([1])}, k=3)
    given = reply(scores=np.array(scores, np.float32))._replace(
        items=None if items is None else np.array(items)
    )
    driver = Driver(Fleet(config()), request=wanted).succeed(given)
    ended = [command for command in driver.commands if not isinstance(command, StartAttempt)]
    assert bool(ended) is sound
    if sound:
        assert driver.answer.scores.tolist() == scores


@pytest.mark.parametrize(
    "wrong",
    [
        reply(scores=np.array([0.1, np.nan, 0.2], np.float32)),
        reply(scores=np.array([0.1, 0.2], np.float32)),
        reply(scores=np.array([0.1, np.inf, 0.2], np.float32)),
    ],
)
def test_an_answer_that_is_no_answer_is_asked_of_another_endpoint(wrong: object) -> None:
    driver = Driver(Fleet(config())).succeed(wrong)  # type: ignore[arg-type]
    answer = driver.succeed(SURE, at=0.02).answer
    assert [a.outcome for a in answer.attempts] == ["model_failed", "ok"]


def test_an_answer_from_another_bundle_than_the_pinned_one_is_refused() -> None:
    pinned = ScoreRequest(
        model="ranker", query=REQUEST.query, candidates=REQUEST.candidates, version="v9@9"
    )
    driver = Driver(Fleet(config()), request=pinned).succeed(SURE)
    assert driver.succeed(reply(bundle="v9@9"), at=0.02).answer.bundle == "v9@9"


def test_a_call_pinned_to_a_version_takes_that_versions_bundle_of_every_tier() -> None:
    pinned = REQUEST._replace(version="v9")
    driver = Driver(Fleet(config()), request=pinned).succeed(UNSURE._replace(bundle="v9@e"))
    driver.succeed(SURE._replace(bundle="v8@c"), at=0.02)
    answer = driver.succeed(SURE._replace(bundle="v9@c"), at=0.03).answer
    assert answer.bundle == "v9@c"
    assert [each.outcome for each in answer.attempts] == ["ok", "model_failed", "ok"]


@pytest.mark.parametrize(
    ("version", "bundle", "is_kept"),
    [
        (None, "v9@9", True),
        ("v9@9", "v9@9", True),
        ("v9", "v9@9", True),
        ("label:canary", "v9@9", True),
        ("v9@8", "v9@9", False),
        ("v", "v9@9", False),
        ("", "v9@9", False),
        ("canary", "v9@9", False),
    ],
)
def test_a_pin_names_a_bundle_a_version_or_a_label(
    version: str | None, bundle: str, is_kept: bool
) -> None:
    assert keeps_pin(version, bundle) is is_kept


def test_edge_only_never_asks_the_cloud() -> None:
    driver = Driver(Fleet(config()), mode=Mode.EDGE_ONLY).succeed(UNSURE)
    assert driver.answer.reason == "edge_only"
    down = _exhaust(Driver(Fleet(config()), mode=Mode.EDGE_ONLY), errors.ConnectFailed("x"))
    with pytest.raises(errors.Unavailable) as caught:
        _ = down.answer
    assert {a.tier for a in caught.value.attempts} == {"edge"}


def test_cloud_only_never_asks_the_edge() -> None:
    answer = Driver(Fleet(config()), mode=Mode.CLOUD_ONLY).succeed(CLOUD).answer
    assert (answer.tier, answer.quality, answer.reason) == ("private", "full", "cloud_only")


def test_no_attempt_is_given_time_beyond_the_deadline() -> None:
    driver = Driver(Fleet(config()))
    while any(isinstance(c, StartAttempt) for c in driver.commands):
        assert driver.started.timeout_at < 0.25
        driver.fail(errors.AttemptTimedOut("late"), at=driver.started.timeout_at)


def test_a_first_attempt_leaves_time_for_another_endpoint() -> None:
    assert Driver(Fleet(config())).started.timeout_at <= 0.125


def test_retries_stop_when_the_budget_is_spent() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=0.0, floor=0.1)))  # one retry in ten seconds
    Driver(fleet).fail(errors.Unavailable("down")).succeed(SURE, at=0.02)
    driver = Driver(fleet, key="another").fail(errors.Unavailable("down"))
    with pytest.raises(errors.Unavailable) as caught:
        _ = driver.answer
    assert len(caught.value.attempts) == 1


def test_a_tenacity_stop_strategy_ends_the_tries() -> None:
    fleet = Fleet(config(retry=RetryPolicy(stop=tenacity.stop_after_attempt(1))))
    driver = Driver(fleet, mode=Mode.EDGE_ONLY).fail(errors.Unavailable("down"))
    with pytest.raises(errors.Unavailable):
        _ = driver.answer


def test_a_tenacity_retry_strategy_decides_what_is_tried_again() -> None:
    only_timeouts = tenacity.retry_if_exception_type(errors.AttemptTimedOut)
    fleet = Fleet(config(retry=RetryPolicy(retry=only_timeouts)))
    driver = Driver(fleet, mode=Mode.EDGE_ONLY).fail(errors.Unavailable("down"))
    with pytest.raises(errors.Unavailable):
        _ = driver.answer


def _one_edge(**changes: object) -> Fleet:
    whole = config()
    edge = whole.tiers[0]
    alone = type(edge)(name="edge", kind="edge", endpoints=edge.endpoints[:1])
    return Fleet(config(tiers=(alone,), **changes))


def test_a_lone_endpoint_is_asked_again_after_the_tenacity_wait() -> None:
    fleet = _one_edge(retry=RetryPolicy(wait=tenacity.wait_fixed(0.05)))
    driver = Driver(fleet).fail(errors.Unavailable("down"), at=0.01)
    [wake] = driver.commands
    assert wake == WakeAt(pytest.approx(0.06))
    assert driver.call.wake(0.03) == []
    driver.commands = driver.call.wake(0.0601)
    assert driver.started.kind == "retry"
    assert driver.succeed(SURE, at=0.07).answer.tier == "edge"


def test_the_servers_retry_after_beats_the_strategy() -> None:
    busy = errors.Overloaded("full")
    busy.retry_after = 0.02
    driver = Driver(_one_edge()).fail(busy, at=0.01)
    assert driver.commands == [WakeAt(pytest.approx(0.03))]


def test_a_wait_that_does_not_fit_the_deadline_is_not_waited() -> None:
    busy = errors.Overloaded("full")
    busy.retry_after = 5.0
    driver = Driver(_one_edge()).fail(busy, at=0.01)
    with pytest.raises(errors.Overloaded):
        _ = driver.answer


def _hedging() -> Fleet:
    return Fleet(config(hedge=HedgePolicy(after=0.02, budget=1.0)))


def test_a_hedge_goes_to_the_other_endpoint_and_the_loser_is_taken_back() -> None:
    driver = Driver(_hedging())
    first, wake = driver.commands
    assert wake == WakeAt(0.02)
    driver.commands = driver.call.wake(0.02)
    hedge = driver.started
    assert hedge.kind == "hedge"
    assert hedge.endpoint.url != first.endpoint.url
    commands = driver.call.attempt_succeeded(hedge.number, SURE, 0.03)
    assert commands[0] == CancelAttempt(first.number)
    driver.commands = commands
    assert {a.outcome for a in driver.answer.attempts} == {"ok", "abandoned"}
    assert first.endpoint.inflight == 0


def test_a_failed_hedge_waits_for_the_first_attempt() -> None:
    driver = Driver(_hedging())
    first = driver.started
    driver.commands = driver.call.wake(0.02)
    assert driver.call.attempt_failed(driver.started.number, errors.Unavailable("x"), 0.03) == []
    driver.commands = driver.call.attempt_succeeded(first.number, SURE, 0.04)
    assert driver.answer.tier == "edge"


def test_a_cancelled_call_owes_nothing_and_judges_nobody() -> None:
    fleet = Fleet(config())
    driver = Driver(fleet)
    start = driver.started
    assert driver.call.cancel(0.01) == [CancelAttempt(start.number)]
    assert start.endpoint.inflight == 0
    assert driver.call.attempt_failed(start.number, errors.AttemptTimedOut("x"), 0.1) == []
    assert driver.call.wake(0.2) == []
    assert start.endpoint.breaker("ranker").state.value == "closed"
    assert start.endpoint.latency.value(0.1) == 0.0


def test_a_late_result_after_the_end_changes_nothing() -> None:
    driver = Driver(Fleet(config()))
    start = driver.started
    driver.fail(errors.BadRequest("wrong"))
    assert driver.call.attempt_succeeded(start.number, SURE, 0.2) == []


def test_the_poisoned_model_does_not_close_the_endpoint_to_another() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    for _ in range(12):
        _exhaust(Driver(fleet, mode=Mode.EDGE_ONLY), errors.ModelFailed("NaN"))
    edge = fleet.tiers[0]
    assert not edge.has_room("ranker", 0.02)
    assert edge.has_room("other", 0.02)
