"""Wrong answers: two endpoints with one bundle implicate the bundle, one alone only itself."""

from __future__ import annotations

import numpy as np
import pytest

from tierline import _exceptions as errors
from tierline._config import BreakerPolicy, Mode, RetryPolicy
from tierline._core.breaker import State
from tierline._core.commands import StartAttempt
from tierline._core.fleet import Fleet
from tierline._core.semantic import WINDOW, Golden, SemanticHealth, drift
from tierline.wire import ScoreReply, ScoreRequest

from .fixtures import CLOUD, EDGE_A, EDGE_B, REQUEST, SURE, Driver, config, reply

BAD = reply(scores=np.array([0.1, np.nan, 0.2], np.float32), bundle="v2@bad")
SHORT = reply(scores=np.array([0.1, 0.2], np.float32), bundle="v2@bad")
GOLDEN = Golden(REQUEST, SURE)


def health() -> SemanticHealth:
    return SemanticHealth(BreakerPolicy())


def test_one_endpoint_alone_does_not_implicate_its_bundle() -> None:
    semantic = health()
    assert not any(semantic.wrong("m", "b", "http://a", now, 0.5) for now in range(50))
    assert not semantic.shuns("m", "b", 50.0)


def test_a_second_endpoint_with_the_same_bundle_does() -> None:
    semantic = health()
    semantic.wrong("m", "b", "http://a", 0.0, 0.5)
    assert not semantic.wrong("m", "other", "http://b", 0.0, 0.5)
    assert not semantic.wrong("another", "b", "http://b", 0.0, 0.5)
    assert semantic.wrong("m", "b", "http://b", 1.0, 0.5)
    assert semantic.shuns("m", "b", 1.0)
    assert not semantic.shuns("m", "other", 1.0)
    assert not semantic.shuns("another", "b", 1.0)


def test_troubles_a_minute_apart_are_two_troubles() -> None:
    semantic = health()
    semantic.wrong("m", "b", "http://a", 0.0, 0.5)
    assert not semantic.wrong("m", "b", "http://b", WINDOW, 0.5)


def test_a_trouble_is_forgotten_when_it_is_a_minute_old_and_not_before() -> None:
    semantic = health()
    semantic.wrong("m", "b", "http://a", 100.0, 0.5)
    semantic.right("m", "b", 100.0 + WINDOW - 0.001)
    assert not semantic.is_clear
    semantic.right("m", "b", 100.0 + WINDOW)
    assert semantic.is_clear


def test_suspicion_fades_and_an_implicated_bundle_comes_back_through_its_breaker() -> None:
    semantic = health()
    semantic.wrong("m", "b", "http://a", 0.0, 0.5)
    semantic.right("m", "b", 1.0)
    assert not semantic.is_clear
    semantic.right("m", "b", WINDOW + 1)
    assert semantic.is_clear
    for url in ("http://a", "http://b"):
        semantic.wrong("m", "b", url, 100.0, 1.0)
    assert semantic.acquire("m", "b", 100.5, 1.0) is None
    for i in range(5):
        now = 102.0 + i
        assert not semantic.shuns("m", "b", now)
        permitted = semantic.acquire("m", "b", now, 1.0)
        assert permitted is not None
        breaker, permit = permitted
        breaker.succeeded(permit, now)
        semantic.right("m", "b", now)
    assert semantic.is_clear


def _shown_by_golden(semantic: SemanticHealth, now: float) -> None:
    for url in ("http://a", "http://b"):
        semantic.wrong("m", "b", url, now, 1.0, golden=True)


def test_what_golden_requests_have_shown_no_callers_answer_clears() -> None:
    semantic = health()
    _shown_by_golden(semantic, 100.0)
    for now in (101.0, 120.0, 100.0 + WINDOW - 0.1):
        assert semantic.shuns("m", "b", now)
        assert semantic.acquire("m", "b", now, 1.0) is None
        semantic.right("m", "b", now)
    assert not semantic.is_clear


def test_golden_requests_answered_rightly_again_clear_a_bundle_at_once() -> None:
    semantic = health()
    _shown_by_golden(semantic, 100.0)
    semantic.proven("m", "b", "http://a", 101.0, needed=2)
    assert semantic.shuns("m", "b", 101.0)  # one of two
    semantic.wrong("m", "b", "http://a", 102.0, 0.5, golden=True)
    semantic.proven("m", "b", "http://a", 103.0, needed=2)
    assert semantic.shuns("m", "b", 103.0)  # not in a row
    semantic.proven("m", "b", "http://a", 104.0, needed=2)
    assert semantic.is_clear  # the other one speaks for itself from now on
    assert not semantic.wrong("m", "b", "http://b", 105.0, 0.5, golden=True)


def test_when_golden_requests_have_stopped_the_breaker_decides_again() -> None:
    semantic = health()
    _shown_by_golden(semantic, 100.0)
    later = 100.0 + WINDOW
    assert not semantic.shuns("m", "b", later)
    assert semantic.acquire("m", "b", later, 1.0) is not None


def test_no_more_bundles_are_remembered_than_could_be_meant() -> None:
    semantic = health()
    for i in range(1000):
        semantic.wrong("m", f"b{i}", "http://a", 0.0, 0.5)
    assert len(semantic._suspects) == 64


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (SURE, ""),
        (reply(scores=SURE.scores * np.float32(1.0005)), ""),
        (reply(scores=SURE.scores * np.float32(1.5)), "a score is off by"),
        (reply(scores=SURE.scores[:2]), "2 scores, expected 3"),
        (reply(scores=np.full(3, -np.inf, np.float32)), "scores are finite where they must not be"),
        (reply(scores=SURE.scores * 9, bundle="another@1"), ""),
    ],
)
def test_drift_is_measured_against_the_golden_answer_of_the_same_bundle(
    given: ScoreReply, complaint: str
) -> None:
    assert drift(GOLDEN, given)[: len(complaint)] == complaint
    assert bool(drift(GOLDEN, given)) is bool(complaint)


@pytest.mark.parametrize(("off", "is_drift"), [(0.05, False), (0.2, True)])
def test_drift_is_allowed_in_proportion_to_the_largest_score(off: float, is_drift: bool) -> None:
    hundred = Golden(GOLDEN.request, reply(scores=np.array([100.0, -3.0, 2.0], np.float32)))
    given = reply(scores=hundred.reply.scores + np.float32(off))
    assert bool(drift(hundred, given)) is is_drift


def test_where_nothing_may_be_off_only_the_very_same_answer_is_right() -> None:
    strict = Golden(REQUEST, SURE, tolerance=0.0)
    assert drift(strict, reply()) == ""
    assert drift(strict, reply(scores=np.nextafter(SURE.scores, np.float32(1)))) != ""


def test_wrong_answers_while_a_bundle_waits_do_not_make_it_wait_longer() -> None:
    semantic = SemanticHealth(BreakerPolicy(open_for=1.0))
    for url in ("http://a", "http://b"):
        semantic.wrong("m", "b", url, 10.0, 1.0)
    assert semantic.wrong("m", "b", "http://c", 10.5, 1.0)
    assert semantic.shuns("m", "b", 10.999)
    assert not semantic.shuns("m", "b", 11.0)
    assert semantic.wrong("m", "b", "http://c", 11.0, 1.0)
    assert semantic.shuns("m", "b", 11.0)  # it was due, and is wrong still


def test_golden_answers_clear_nothing_that_no_golden_request_has_shown() -> None:
    semantic = health()
    semantic.proven("m", "b", "http://a", 0.0, needed=1)
    semantic.wrong("m", "b", "http://a", 1.0, 0.5)
    semantic.proven("m", "b", "http://a", 2.0, needed=1)
    assert not semantic.is_clear
    assert semantic.wrong("m", "b", "http://b", 3.0, 0.5)


def test_a_single_suspicion_is_lifted_by_whom_it_is_about_and_by_nobody_else() -> None:
    semantic = health()
    semantic.wrong("m", "b", "http://a", 0.0, 0.5, golden=True)
    semantic.proven("m", "b", "http://b", 1.0, needed=1)
    assert not semantic.is_clear
    semantic.proven("m", "b", "http://a", 2.0, needed=1)
    assert semantic.is_clear


def test_one_endpoint_that_golden_requests_have_shown_lately_is_enough_to_await_a_proof() -> None:
    semantic = SemanticHealth(BreakerPolicy(open_for=1.0))
    semantic.wrong("m", "b", "http://a", 100.0, 1.0, golden=True)
    semantic.wrong("m", "b", "http://b", 130.0, 1.0, golden=True)
    assert semantic.shuns("m", "b", 129.9 + WINDOW)  # of two it is one that still counts
    assert semantic.acquire("m", "b", 129.9 + WINDOW, 1.0) is None
    assert not semantic.shuns("m", "b", 130.0 + WINDOW)


def test_of_too_many_bundles_the_one_met_first_is_forgotten() -> None:
    semantic = health()
    for i in range(65):
        semantic.wrong("m", f"b{i}", "http://a", 0.0, 0.5)
    assert [semantic.wrong("m", f"b{i}", "http://b", 1.0, 0.5) for i in (64, 1, 0)] == [
        True,
        True,
        False,
    ]


# -- in a call -----------------------------------------------------------------------------------


def _answer_wrongly(fleet: Fleet, wrong: ScoreReply, now: float) -> list[str]:
    """Edge-only calls at the edge; every endpoint answers wrongly. Whom the call asked."""
    driver = Driver(fleet, mode=Mode.EDGE_ONLY, key=None)
    asked = []
    while any(isinstance(c, StartAttempt) for c in driver.commands):
        asked.append(driver.started.endpoint.url)
        driver.succeed(wrong, at=now)
    return asked


@pytest.mark.parametrize("wrong", [BAD, SHORT], ids=["NaN", "shape"])
def test_wrong_answers_of_one_bundle_at_two_endpoints_open_its_breaker_not_theirs(
    wrong: ScoreReply,
) -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    for edge in fleet.tiers[0].endpoints:
        edge.served("ranker").bundle = "v2@bad"
    assert set(_answer_wrongly(fleet, wrong, 0.01)) == {EDGE_A, EDGE_B}
    assert _answer_wrongly(fleet, wrong, 0.02) == []  # the bundle is left out at once
    for edge in fleet.tiers[0].endpoints:
        assert edge.breaker("ranker").state is State.CLOSED
        assert not edge.standing.is_out("ranker", 0.02)
    driver = Driver(fleet)
    assert driver.started.endpoint.tier == "private"  # another tier serves another bundle
    assert driver.succeed(CLOUD, at=0.03).answer.tier == "private"


def test_an_endpoint_with_another_bundle_is_asked_on() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    _answer_wrongly(fleet, BAD, 0.01)
    first, second = fleet.tiers[0].endpoints
    first.served("ranker").bundle = "v2@bad"
    second.served("ranker").bundle = "v1@good"
    for _ in range(20):
        driver = Driver(fleet, mode=Mode.EDGE_ONLY)
        assert driver.started.endpoint is second
        driver.succeed(reply(bundle="v1@good"), at=0.02)


def test_a_bundle_that_is_mended_is_trusted_again_through_few_probes() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    for edge in fleet.tiers[0].endpoints:
        edge.served("ranker").bundle = "v2@bad"
    _answer_wrongly(fleet, BAD, 0.01)
    mended = reply(bundle="v2@bad")
    crowd = [Driver(fleet, mode=Mode.EDGE_ONLY, begin=5.0) for _ in range(50)]
    asking = [d for d in crowd if any(isinstance(c, StartAttempt) for c in d.commands)]
    assert len(asking) == 1  # one leased probe for the bundle, whoever serves it
    asking[0].succeed(mended, at=5.01)
    for _ in range(9):
        driver = Driver(fleet, mode=Mode.EDGE_ONLY, begin=5.1)
        driver.succeed(mended, at=5.11)
    assert fleet.semantic.is_clear


def test_a_stale_bundle_is_the_endpoints_own_fault() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    pinned = ScoreRequest("ranker", REQUEST.query, REQUEST.candidates, version="v9@new")
    driver = Driver(fleet, request=pinned, mode=Mode.EDGE_ONLY, key=None)
    driver.succeed(SURE).succeed(SURE, at=0.02)
    with pytest.raises(errors.Unavailable, match="pinned to v9@new"):
        _ = driver.answer
    assert fleet.semantic.is_clear


def test_a_caller_who_leaves_gives_the_bundles_probe_back() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=1.0, floor=100.0)))
    for edge in fleet.tiers[0].endpoints:
        edge.served("ranker").bundle = "v2@bad"
    _answer_wrongly(fleet, BAD, 0.01)
    driver = Driver(fleet, mode=Mode.EDGE_ONLY, begin=5.0)
    assert driver.started.endpoint.tier == "edge"
    driver.call.cancel(5.01)
    assert Driver(fleet, mode=Mode.EDGE_ONLY, begin=5.02).started.endpoint.tier == "edge"
