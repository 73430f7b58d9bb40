"""An escalation asks the cloud for the bundle that the edge's certificate names, if it has it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tierline import _exceptions as errors
from tierline._config import EscalationPolicy, RetryPolicy, Sovereignty
from tierline._core.certified import REMEMBERED, Shadow
from tierline._core.commands import StartAttempt
from tierline._core.fleet import Fleet
from tierline._core.shadow_call import ShadowCall
from tierline._sovereignty import FieldRule
from tierline.wire import ScoreReply

from .certificates import (
    CERTIFICATE,
    CLOUD_BUNDLE,
    CLOUD_LIST,
    EDGE_BUNDLE,
    EDGE_UNSURE,
    RECOMMEND,
    SAME,
    edge_description,
    listing,
)
from .fixtures import PRIVATE, PUBLIC, Driver, config

NEWER = "2@ffffffffffff"
AMPLE = EscalationPolicy(budget=1.0, burst=1000.0)


def paired_fleet(*seen: str, certificate: Any = CERTIFICATE, **settings: Any) -> Fleet:
    """A fleet whose edge has a certificate and whose private cloud has answered from ``seen``."""
    fleet = Fleet(config(escalation=AMPLE, **settings))
    control = fleet.control("ranker")
    control.of(EDGE_BUNDLE, 0.5)
    control.edge_described(EDGE_BUNDLE, edge_description(certificate))
    for bundle in seen:
        control.cloud_answered(PRIVATE, bundle)
    return fleet


def escalation(fleet: Fleet, now: float = 0.0, **options: Any) -> Driver:
    """A call whose edge answer was doubtful: the cloud is being asked."""
    options.setdefault("request", RECOMMEND)
    return Driver(fleet, key=None, begin=now, **options).succeed(EDGE_UNSURE, at=now + 0.01)


def wanted(driver: Driver) -> str | None:
    """The version that the attempt to be started asks for."""
    view = driver.started.view
    return driver.call._request.version if view is None else view.request.version


def test_the_edge_is_asked_for_whatever_it_serves() -> None:
    assert Driver(paired_fleet(CLOUD_BUNDLE), request=RECOMMEND).started.view is None


def test_the_cloud_is_asked_for_the_bundle_of_the_pair_also_when_it_serves_another_by_now() -> None:
    for seen in ((CLOUD_BUNDLE,), (CLOUD_BUNDLE, NEWER)):
        driver = escalation(paired_fleet(*seen))
        assert wanted(driver) == CLOUD_BUNDLE
        answer = driver.succeed(CLOUD_LIST, at=0.02).answer
        assert (answer.reason, answer.bundle) == ("escalated", CLOUD_BUNDLE)


@pytest.mark.parametrize(
    ("seen", "certificate"), [((), CERTIFICATE), ((NEWER,), CERTIFICATE), ((CLOUD_BUNDLE,), None)]
)
def test_what_is_not_known_to_belong_together_is_not_asked_for(
    seen: tuple[str, ...], certificate: Any
) -> None:
    driver = escalation(paired_fleet(*seen, certificate=certificate))
    assert driver.started.view is None
    assert driver.succeed(listing(NEWER, SAME), at=0.02).answer.reason == "escalated"


def test_a_caller_who_pins_a_version_is_taken_at_their_word() -> None:
    request = RECOMMEND._replace(version="1")
    assert wanted(escalation(paired_fleet(CLOUD_BUNDLE), request=request)) == "1"


def test_retries_and_failovers_of_the_escalation_ask_for_it_too() -> None:
    driver = escalation(paired_fleet(CLOUD_BUNDLE))
    driver.fail(errors.Unavailable("trouble"), at=0.02)
    assert driver.started.endpoint.url == PUBLIC
    assert wanted(driver) == CLOUD_BUNDLE


def test_a_cloud_that_no_longer_has_it_is_asked_again_without_and_the_answer_says_so() -> None:
    fleet = paired_fleet(CLOUD_BUNDLE, retry=RetryPolicy(budget=1.0))
    driver = escalation(fleet)
    driver.fail(errors.ModelNotFound("no such bundle here"), at=0.02)
    assert wanted(driver) is None
    answer = driver.succeed(listing(NEWER, SAME), at=0.03).answer
    assert answer.reason == "escalated; unpinned"
    assert answer.quality == "full"
    later = escalation(fleet, now=1.0)
    assert later.started.endpoint.url == PRIVATE
    assert wanted(later) is None  # it has said so: no attempt is lost again


def test_who_answers_from_it_once_more_is_asked_for_it_again() -> None:
    fleet = paired_fleet(CLOUD_BUNDLE)
    escalation(fleet).fail(errors.ModelNotFound("gone"), at=0.02)
    escalation(fleet, now=1.0).succeed(listing(NEWER, SAME), at=1.02)
    assert wanted(escalation(fleet, now=2.0)) is None
    escalation(fleet, now=3.0).succeed(CLOUD_LIST, at=3.02)
    assert wanted(escalation(fleet, now=4.0)) == CLOUD_BUNDLE


def test_an_answer_from_another_bundle_than_asked_for_is_taken_and_says_so() -> None:
    fleet = paired_fleet(CLOUD_BUNDLE)
    answer = escalation(fleet).succeed(listing(NEWER, SAME), at=0.02).answer
    assert answer.reason == "escalated; unpinned"
    assert answer.certificate is not None
    assert not answer.certificate.valid


def test_fields_kept_from_the_cloud_stay_kept_from_it() -> None:
    rule = FieldRule(name="query.history", action="hash")
    policy = Sovereignty(fields=(rule,), default="allow", secret=b"k" * 32)
    driver = escalation(paired_fleet(CLOUD_BUNDLE), sovereignty=policy)
    view = driver.started.view
    assert view is not None
    assert (view.request.version, view.reduced) == (CLOUD_BUNDLE, ("query.history",))
    assert view.request.query["history"].tolist() != [1, 2, 3]


def test_the_cloud_bundles_remembered_are_few() -> None:
    fleet = paired_fleet(CLOUD_BUNDLE, *(f"{i}@{i:012x}" for i in range(2 * REMEMBERED)))
    assert escalation(fleet).started.view is None


def test_one_view_a_tier_is_made_for_all_attempts_there() -> None:
    fleet = paired_fleet(CLOUD_BUNDLE, retry=RetryPolicy(budget=1.0, per_tier=2, wait=None))
    driver = escalation(fleet)
    [first] = [c for c in driver.commands if isinstance(c, StartAttempt)]
    reply: ScoreReply = CLOUD_LIST
    assert first.view is not None
    assert first.view.reduced == ()
    assert first.view.headers("id", "00-trace") == ("id", "00-trace")
    assert driver.succeed(reply, at=0.02).answer.attempts[-1].reduced == ()


def test_a_shadow_is_compared_with_the_bundle_of_the_pair_as_far_as_it_is_to_be_had() -> None:
    fleet = paired_fleet(CLOUD_BUNDLE, NEWER)
    control = fleet.control("ranker").of(EDGE_BUNDLE, 0.5)
    shadow = Shadow(RECOMMEND, None, control, EDGE_UNSURE, 0.05)
    for version in (CLOUD_BUNDLE, None):
        call = ShadowCall.of(shadow, fleet, deadline=1.0, call_id="s", dice=random.Random(1))
        [start] = [c for c in call.begin(0.0) if isinstance(c, StartAttempt)]
        assert (None if start.view is None else start.view.request.version) == version
        call.attempt_failed(start.number, errors.ModelNotFound("gone"), 0.1)
