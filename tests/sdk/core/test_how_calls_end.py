"""What a call leaves behind when it is over: its answer or error, to the letter, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tierline import _exceptions as errors
from tierline._config import (
    ClientConfig,
    EjectionPolicy,
    Endpoint,
    HedgePolicy,
    Mode,
    RetryPolicy,
    Tier,
)
from tierline._core.commands import CancelAttempt, StartAttempt, WakeAt
from tierline._core.endings import final_error
from tierline._core.escalation import START_GATE
from tierline._core.estimators import REFRESH
from tierline._core.fallback import LastGood
from tierline._core.fleet import Fleet
from tierline.wire import ScoreRequest

from .certificates import (
    EDGE_SURE,
    EDGE_UNSURE,
    RECOMMEND,
    SAME,
    listing,
)
from .certified import ask, certified, failing, status
from .fixtures import CLOUD, REQUEST, SURE, UNSURE, Driver, config, reply

BEGUN = 1000.0  # clocks do not begin at nought when a call does


def hedging(**changes: Any) -> Fleet:
    """Two endpoints of each kind; a hedge is due after 20 ms."""
    tiers = tuple(
        Tier(
            name=name,
            kind=kind,
            endpoints=(Endpoint(url=f"http://{name}0:1"), Endpoint(url=f"http://{name}1:1")),
        )
        for name, kind in (("edge", "edge"), ("cloud", "cloud"))
    )
    hedge = HedgePolicy(after=0.02, budget=1.0)
    retry = RetryPolicy(budget=1.0, floor=100.0)
    return Fleet(ClientConfig(**{"tiers": tiers, "hedge": hedge, "retry": retry, **changes}))


def hedged(fleet: Fleet, begin: float = 0.0, **options: Any) -> tuple[Driver, StartAttempt]:
    """A call whose first attempt (the second of the pair) and its hedge are out."""
    driver = Driver(fleet, key=None, begin=begin, **options)
    first = driver.started
    driver.commands = driver.call.wake(begin + 0.02)
    assert driver.started.kind == "hedge"
    return driver, first


# -- over is over --------------------------------------------------------------------------------


def over_with_a_hedge_due(how: str) -> Driver:
    driver = Driver(hedging())
    assert WakeAt(0.02) in driver.commands
    if how == "answered":
        driver.succeed(SURE)
    elif how == "failed":
        driver.fail(errors.BadRequest("no such input"))
    else:
        driver.commands = driver.call.cancel(0.01)
    return driver


@pytest.mark.parametrize("how", ["answered", "failed", "cancelled"])
def test_a_hedge_that_falls_due_when_the_call_is_over_is_not_sent(how: str) -> None:
    driver = over_with_a_hedge_due(how)
    assert driver.call.wake(0.02) == []
    assert [endpoint.inflight for endpoint in driver.call._fleet.endpoints()] == [0] * 4


def test_an_answer_takes_back_whatever_else_is_out_in_either_tier() -> None:
    for mode, given in ((Mode.EDGE_ONLY, SURE), (Mode.CLOUD_ONLY, CLOUD)):
        fleet = hedging()
        driver, first = hedged(fleet, mode=mode)
        driver.succeed(given, at=0.03)
        assert driver.commands[0] == CancelAttempt(first.number)
        assert sorted(attempt.outcome for attempt in driver.answer.attempts) == ["abandoned", "ok"]
        assert [endpoint.inflight for endpoint in fleet.endpoints()] == [0] * 4


def test_an_unsure_answer_takes_back_its_rival_before_the_cloud_is_asked() -> None:
    fleet = hedging()
    driver, first = hedged(fleet)
    driver.succeed(UNSURE, at=0.03)
    assert driver.commands[0] == CancelAttempt(first.number)
    assert driver.started.endpoint.tier == "cloud"
    assert [endpoint.inflight for endpoint in fleet.tiers[0].endpoints] == [0, 0]


@pytest.mark.parametrize(("mode", "given"), [(Mode.EDGE_ONLY, SURE), (Mode.CLOUD_ONLY, CLOUD)])
def test_what_lost_is_remembered_as_having_taken_that_long_at_least(mode: Mode, given: Any) -> None:
    fleet = hedging()
    for number in range(REFRESH):
        driver, _ = hedged(fleet, begin=float(number), mode=mode)
        driver.succeed(given, at=number + 0.1)
    latencies = fleet.tiers[0 if mode is Mode.EDGE_ONLY else 1].latencies("ranker")
    assert latencies.fastest == pytest.approx(0.08)  # the hedges were answered so fast
    assert latencies.slowest == pytest.approx(0.1)  # and what they outran was out for longer


def test_attempts_that_a_failed_call_takes_back_teach_nothing_about_latencies() -> None:
    fleet = hedging()
    for number in range(4 * REFRESH):
        driver, first = hedged(fleet, begin=float(number))
        driver.fail(errors.BadRequest("no such input"), at=number + 0.1)
        assert driver.commands[0] == CancelAttempt(first.number)
    latencies = fleet.tiers[0].latencies("ranker")
    assert (latencies.typical, latencies.slowest) == (None, None)


# -- last good answers ---------------------------------------------------------------------------


def test_an_answer_that_should_have_been_better_is_no_last_good_one() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    Driver(fleet).succeed(SURE)
    worse = Driver(fleet).succeed(UNSURE._replace(scores=SURE.scores[::-1].copy()))
    refused = errors.ConnectFailed("refused")
    assert failing(worse, refused).quality == "degraded"
    given = failing(Driver(fleet), refused)
    assert given.tier == "client"
    assert given.scores.tolist() == SURE.scores.tolist()


def test_of_a_call_without_a_key_nothing_is_kept() -> None:
    fleet = Fleet(config())
    assert Driver(fleet, key=None).succeed(SURE).answer.quality == "edge"
    assert not fleet.last_good._answers


def test_last_good_answers_of_ten_thousand_keys_are_kept_and_of_no_more() -> None:
    kept = LastGood()
    for number in range(10_000):
        kept.remember(f"user-{number}", REQUEST, SURE)
    assert kept.answer("user-0", REQUEST) is not None
    kept.remember("one more", REQUEST, SURE)
    assert kept.answer("user-0", REQUEST) is None
    assert kept.answer("user-1", REQUEST) is not None


# -- figures -------------------------------------------------------------------------------------


def test_times_are_told_from_the_calls_beginning_on() -> None:
    driver = Driver(Fleet(config()), begin=BEGUN).succeed(SURE, at=BEGUN + 0.125)
    assert driver.answer.elapsed == 0.125
    assert [(each.started, each.ended) for each in driver.answer.attempts] == [(0.0, 0.125)]
    wrong = Driver(Fleet(config()), begin=BEGUN)
    wrong.fail(errors.BadRequest("no such input"), at=BEGUN + 0.125)
    with pytest.raises(errors.BadRequest) as caught:
        _ = wrong.answer
    assert caught.value.elapsed == 0.125


def test_an_error_at_the_deadline_tells_the_time_that_the_call_had_and_what_went_wrong() -> None:
    fleet = Fleet(config(retry=RetryPolicy(attempts=1)))
    driver = Driver(fleet, begin=BEGUN, deadline=BEGUN + 2.0)
    driver.fail(errors.AttemptTimedOut("no answer in time"), at=BEGUN + 1.999)
    with pytest.raises(errors.DeadlineExceeded, match=r"within 2000 ms: no answer in time$"):
        _ = driver.answer


def test_a_call_that_was_late_from_the_first_says_that_nobody_was_asked() -> None:
    driver = Driver(Fleet(config()), begin=BEGUN, deadline=BEGUN + START_GATE / 2)
    with pytest.raises(errors.DeadlineExceeded, match=r"within 1 ms: no attempt was made$"):
        _ = driver.answer


def test_a_call_is_late_when_no_time_is_left_for_an_attempt_and_for_returning() -> None:
    for at, kind in (
        (0.25 - 0.001 - START_GATE, errors.DeadlineExceeded),
        (float(np.nextafter(0.25 - 0.001 - START_GATE, 0.0)), errors.Unavailable),
    ):
        driver = Driver(Fleet(config(retry=RetryPolicy(attempts=1))))
        driver.fail(errors.ConnectFailed("refused"), at=at)
        with pytest.raises(kind):
            _ = driver.answer


@pytest.mark.parametrize(
    ("error", "late", "kind"),
    [
        (errors.BadRequest("x"), True, errors.BadRequest),
        (errors.NotPermitted("x"), True, errors.NotPermitted),
        (errors.ModelNotFound("x"), True, errors.ModelNotFound),
        (errors.Overloaded("x"), True, errors.DeadlineExceeded),
        (errors.Overloaded("x"), False, errors.Overloaded),
        (errors.ModelFailed("x"), False, errors.Unavailable),
        (None, True, errors.DeadlineExceeded),
        (None, False, errors.Unavailable),
    ],
)
def test_a_callers_mistake_is_told_even_late_and_then_lateness_and_then_load(
    error: errors.TierlineError | None, late: bool, kind: type[errors.CallError]
) -> None:
    ended = final_error("m", Mode.SEQUENTIAL, error, late=late, span=0.25)
    assert type(ended) is kind


# -- what counts as an answer --------------------------------------------------------------------


def test_scores_whose_squares_overflow_are_finite_all_the_same() -> None:
    large = reply(scores=np.array([3e38, -3e38, 1.0], np.float32))
    with np.errstate(over="ignore"):
        answer = Driver(Fleet(config())).succeed(large).answer
    assert answer.scores.tolist() == large.scores.tolist()


def test_a_recommendation_with_too_few_scores_is_told_by_their_number() -> None:
    wanted = ScoreRequest(model="ranker", query={"history": np.array([1])}, k=3)
    short = reply(scores=np.array([2.0, 1.0], np.float32))._replace(items=np.array([5, 6, 7]))
    driver = Driver(Fleet(config(retry=RetryPolicy(attempts=1))), request=wanted).succeed(short)
    with pytest.raises(errors.Unavailable, match="expected 3 scores, got 2"):
        _ = driver.answer


# -- reasons -------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [START_GATE, 0.2])
def test_an_escalation_into_a_panic_that_fails_fast_blames_neither_time_nor_anybody(
    left: float,
) -> None:
    policy = EjectionPolicy(panic="fail")
    names = ("http://cloud0:1", "http://cloud1:1", "http://cloud2:1")
    cloud = Tier(name="cloud", kind="cloud", endpoints=tuple(Endpoint(url=url) for url in names))
    fleet = Fleet(config(tiers=(config().tiers[0], cloud), ejection=policy))
    for endpoint in fleet.tiers[1].endpoints[:2]:
        endpoint.standing.failed("ranker", 0.0, unreached=True)
        endpoint.standing.eject(0.0, 0.5)
    answer = Driver(fleet, deadline=left).succeed(UNSURE, at=0.0).answer
    assert (answer.tier, answer.quality) == ("edge", "degraded")
    assert answer.reason == "escalation_failed: nobody_to_ask"


def test_whoever_in_the_cloud_answers_for_the_edge_the_call_was_escalated() -> None:
    fleet = hedging()
    driver = Driver(fleet).succeed(UNSURE)
    driver.commands = driver.call.wake(0.03)
    assert (driver.started.kind, driver.started.endpoint.tier) == ("hedge", "cloud")
    answer = driver.succeed(CLOUD, at=0.04).answer
    assert (answer.quality, answer.reason) == ("full", "escalated")


# -- certificates --------------------------------------------------------------------------------


def test_a_call_that_neither_tier_answered_counts_as_lost_and_one_of_the_cloud_does_not() -> None:
    fleet = certified()
    for _ in range(8):
        ask(fleet, EDGE_SURE, key="user")
    before = status(ask(fleet, EDGE_SURE, key="user"))
    driver = Driver(fleet, request=RECOMMEND, key="user")
    while driver.started.endpoint.tier == "edge":
        driver.fail(errors.ConnectFailed("refused"))
    by_cloud = driver.succeed(listing("1@dddddddddddd", SAME)).answer
    assert by_cloud.reason.startswith("edge_failed")
    assert status(by_cloud) == before
    by_nobody = failing(Driver(fleet, request=RECOMMEND, key="user"), errors.ConnectFailed("x"))
    assert by_nobody.tier == "client"
    after = status(by_nobody)
    assert (before.valid, after.valid) == (True, False)
    assert after.alpha == pytest.approx(before.alpha + 1 / 11)
    assert status(ask(fleet, EDGE_UNSURE)).alpha == pytest.approx(before.alpha + 1 / 12)


def test_who_asks_for_candidates_is_answered_with_their_ids() -> None:
    answer = Driver(Fleet(config()), request=REQUEST).succeed(SURE).answer
    assert answer.items is not None
    assert answer.items.tolist() == [7, 8, 9]
