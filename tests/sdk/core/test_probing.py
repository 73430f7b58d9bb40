"""Health probes: when, of whom, with what; down after two, up after two, primary and standby."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tierline import _exceptions as errors
from tierline._config import HealthPolicy, Mode, Sovereignty
from tierline._core.fleet import Fleet
from tierline._core.probing import MODELS, Probe, Prober
from tierline._core.semantic import Golden
from tierline._sovereignty import FieldRule
from tierline.wire import ScoreReply, ScoreRequest

from .fixtures import EDGE_A, REQUEST, SURE, Driver, config, reply

POLICY = HealthPolicy()
DEAD = errors.AttemptTimedOut("no answer")


def prober(fleet: Fleet, golden: tuple[Golden, ...] = ()) -> Prober:
    fleet.prober = Prober(fleet, POLICY, golden)
    return fleet.prober


def seeded(fleet: Fleet) -> Prober:
    """Probes after every tier has answered a call."""
    made = prober(fleet)
    for tier in fleet.tiers:
        made.remember(tier.name, REQUEST)
    return made


def ask(made: Prober, target: int, now: float) -> Probe:
    probe = made.probe(target, now, random.Random(1))
    assert probe is not None
    return probe


def pass_(made: Prober, target: int, now: float, given: ScoreReply = SURE) -> None:
    made.answered(ask(made, target, now), given, now, random.Random(1))


def test_every_endpoint_of_every_tier_is_probed_each_interval_out_of_step() -> None:
    made, dice = seeded(Fleet(config())), random.Random(7)
    made.begin(100.0, dice)
    starts = [made.due(target) for target in range(4)]
    assert all(100.0 <= start < 102.0 for start in starts)
    assert len(set(starts)) == 4
    gaps = []
    for _ in range(200):
        now = made.due(0)
        made.probe(0, now, dice)
        gaps.append(made.due(0) - now)
    assert 1.6 <= min(gaps) < 1.7
    assert 2.3 < max(gaps) <= 2.4


def test_nothing_is_asked_before_anything_was_answered() -> None:
    made = prober(Fleet(config()))
    assert made.probe(0, 0.0, random.Random(1)) is None


def test_a_tier_is_asked_only_what_it_has_answered_before_and_without_the_pin() -> None:
    fleet = Fleet(config())
    made = prober(fleet)
    pinned = REQUEST._replace(version=SURE.bundle)
    Driver(fleet, request=pinned).succeed(SURE)
    probe = ask(made, 0, 1.0)
    assert probe.request == REQUEST
    assert probe.timeout == POLICY.timeout
    assert made.probe(2, 1.0, random.Random(1)) is None  # the cloud was never asked


def test_models_are_probed_in_turn_and_only_so_many() -> None:
    fleet = Fleet(config())
    made = prober(fleet)
    for i in range(MODELS + 3):
        made.remember("edge", REQUEST._replace(model=f"m{i}"))
    asked = {ask(made, 0, float(i)).request.model for i in range(3 * MODELS)}
    assert len(asked) == MODELS


def test_of_nine_models_the_one_asked_least_lately_is_probed_no_more() -> None:
    made = prober(Fleet(config()))
    for i in (*range(8), 0, 8):
        made.remember("edge", REQUEST._replace(model=f"m{i}"))
    probes = [ask(made, 0, float(i)) for i in range(9)]
    assert [probe.request.model for probe in probes] == [f"m{i}" for i in (*range(2, 8), 0, 8, 2)]
    assert [probe.number for probe in probes] == list(range(1, 10))


class Loaded:
    """Dice that always show one number."""

    def __init__(self, shown: float) -> None:
        self.shown = shown

    def random(self) -> float:
        return self.shown


@pytest.mark.parametrize(("shown", "first", "then"), [(0.0, 0.0, 1.6), (0.5, 1.0, 2.0)])
def test_the_dice_tell_how_soon_a_probe_comes(shown: float, first: float, then: float) -> None:
    made, dice = seeded(Fleet(config())), Loaded(shown)
    made.begin(100.0, dice)
    assert {made.due(target) for target in range(4)} == {100.0 + first}
    made.probe(0, 101.0, dice)
    assert made.due(0) == pytest.approx(101.0 + then)


def test_tiers_the_policy_forbids_are_not_probed() -> None:
    fleet = Fleet(config(sovereignty=Sovereignty(trust="private")))
    assert {target.tier.name for target in prober(fleet).targets} == {"edge", "private"}


def test_two_failures_in_a_row_take_it_out_and_two_answers_bring_it_back_slowly() -> None:
    fleet = Fleet(config())
    made, edge = seeded(fleet), fleet.tiers[0].endpoints[0]
    made.failed(ask(made, 0, 0.0), DEAD, 0.0)
    pass_(made, 0, 2.0)
    made.failed(ask(made, 0, 4.0), DEAD, 4.0)
    assert not edge.standing.is_out("any model", 4.0)
    made.failed(ask(made, 0, 6.0), DEAD, 6.0)
    assert edge.standing.is_out("any model", 6.0)
    pass_(made, 0, 8.0)
    assert edge.standing.is_out("any model", 8.0)
    pass_(made, 0, 10.0)
    assert not edge.standing.is_out("any model", 10.0)
    assert edge.standing.share(10.0) == 0.1


def test_an_endpoint_that_is_back_can_go_down_again() -> None:
    fleet = Fleet(config())
    made, edge = seeded(fleet), fleet.tiers[0].endpoints[0]
    for start in (0.0, 100.0):
        for now in (start, start + 2.0):
            made.failed(ask(made, 0, now), DEAD, now)
        assert edge.standing.is_out("ranker", start + 2.0)
        for now in (start + 4.0, start + 6.0):
            pass_(made, 0, now)
        assert not edge.standing.is_out("ranker", start + 6.0)


@pytest.mark.parametrize(
    "error", [errors.Overloaded("full"), errors.ModelNotFound("not here"), errors.BadRequest("no")]
)
def test_who_refuses_is_alive(error: errors.TierlineError) -> None:
    fleet = Fleet(config())
    made = seeded(fleet)
    for i in range(5):
        made.failed(ask(made, 0, float(i)), error, float(i))
    assert not fleet.tiers[0].endpoints[0].standing.is_out("ranker", 5.0)


def test_probes_fail_over_to_the_standby_and_back_without_a_single_failed_call() -> None:
    """A heartbeat: the primary's two endpoints freeze; calls begin elsewhere, then return."""
    fleet = Fleet(config())
    made, dice = seeded(fleet), random.Random(3)
    made.begin(0.0, dice)

    def run(seconds: range, frozen: bool) -> set[str]:
        first = set()
        for second in seconds:
            for target in range(4):
                if made.due(target) <= second:
                    probe = ask(made, target, float(second))
                    if frozen and target < 2:
                        made.failed(probe, DEAD, float(second))
                    else:
                        made.answered(probe, SURE, float(second), dice)
            driver = Driver(fleet, mode=Mode.CLOUD_ONLY, begin=float(second), seed=second)
            first.add(driver.started.endpoint.url)
            driver.call.cancel(float(second))
        return first

    # The prober's targets are edge a, edge b, private, public: here the private cloud is primary.
    private = 2
    assert run(range(4), frozen=False) == {"http://private:1"}
    for now in (5.0, 7.0):
        made.failed(ask(made, private, now), DEAD, now)
    assert Driver(fleet, mode=Mode.CLOUD_ONLY, begin=7.2).started.endpoint.url == "http://public:1"
    for now in (9.0, 11.0):
        pass_(made, private, now)
    assert run(range(12, 16), frozen=False) == {"http://private:1"}


def test_answered_probes_make_an_open_breaker_due_at_once() -> None:
    fleet = Fleet(config())
    made, breaker = seeded(fleet), fleet.tiers[0].endpoints[0].breaker("ranker")
    for _ in range(5):
        permit = breaker.acquire(0.0, 1.0)
        assert permit is not None
        breaker.failed(permit, 0.0, 1.0)
    pass_(made, 0, 0.1)
    assert not breaker.allows(0.1)
    pass_(made, 0, 0.2)
    assert breaker.allows(0.2)


GOLDEN = Golden(REQUEST, SURE)
DRIFTED = reply(scores=SURE.scores[::-1].copy())


def test_a_golden_request_is_asked_for_its_model_and_its_answer_must_be_golden() -> None:
    fleet = Fleet(config())
    made = prober(fleet, (GOLDEN,))
    probe = ask(made, 0, 0.0)  # no call was needed
    assert probe.golden is GOLDEN
    for now in (0.0, 2.0):
        pass_(made, 0, now, DRIFTED)
    assert fleet.tiers[0].endpoints[0].standing.is_out("ranker", 2.0)


@pytest.mark.parametrize(
    "golden", [(), (Golden(REQUEST, SURE._replace(bundle="v9@new")),)], ids=["none", "another's"]
)
def test_what_cannot_be_compared_with_a_golden_answer_clears_no_bundle(
    golden: tuple[Golden, ...],
) -> None:
    fleet = Fleet(config())
    made = prober(fleet, golden)
    made.remember("edge", REQUEST)
    fleet.semantic.wrong("ranker", SURE.bundle, EDGE_A, 0.0, 0.5, golden=True)
    for now in (1.0, 3.0, 5.0):
        pass_(made, 0, now)
    assert not fleet.semantic.is_clear


def test_another_bundle_cannot_drift_from_the_golden_one() -> None:
    fleet = Fleet(config())
    made = prober(fleet, (GOLDEN,))
    for now in (0.0, 2.0, 4.0):
        pass_(made, 0, now, DRIFTED._replace(bundle="v3@other"))
    assert not fleet.tiers[0].endpoints[0].standing.is_out("ranker", 4.0)


def test_two_endpoints_drifting_with_one_bundle_implicate_it_and_stay_in() -> None:
    fleet = Fleet(config())
    made = prober(fleet, (GOLDEN,))
    for now in (0.0, 2.0):
        for target in (0, 1):
            pass_(made, target, now, DRIFTED)
    assert fleet.semantic.shuns("ranker", SURE.bundle, 2.0)
    assert not fleet.tiers[0].has_room("ranker", 2.0)
    assert fleet.tiers[0].has_room("another model", 2.0)
    assert not fleet.tiers[0].endpoints[1].standing.is_out("ranker", 2.0)


def test_a_bundle_golden_requests_have_shown_answers_nobody_until_they_are_answered_rightly() -> (
    None
):
    fleet = Fleet(config())
    made = prober(fleet, (GOLDEN, GOLDEN._replace(tolerance=0.01)))
    for target in (0, 1):
        pass_(made, target, 0.0, DRIFTED)
    for now in (1.0, 5.0, 20.0, 59.0):  # as plausible as ever, and as wrong
        assert Driver(fleet, begin=now).started.endpoint.tier != "edge"
    pass_(made, 0, 59.1)
    assert Driver(fleet, begin=59.1).started.endpoint.tier != "edge"  # it was asked one of two
    pass_(made, 0, 59.2)
    assert Driver(fleet, begin=59.3).started.endpoint.tier == "edge"


def test_a_golden_request_is_shown_to_a_tier_as_the_field_rules_say() -> None:
    rules = (FieldRule(name="query.user", action="drop"),)
    fleet = Fleet(config(sovereignty=Sovereignty(fields=rules, default="allow")))
    request = ScoreRequest(
        "ranker", {"history": np.arange(3), "user": np.array([7])}, REQUEST.candidates
    )
    made = prober(fleet, (Golden(request, SURE),))
    probe = ask(made, 0, 0.0)
    assert set(probe.request.query) == {"history"}
    assert probe.golden is None  # what is shown in part cannot give the golden answer


def test_a_calls_request_is_remembered_as_its_tier_saw_it() -> None:
    rules = (FieldRule(name="query.history", action="generalise", last=1),)
    fleet = Fleet(config(sovereignty=Sovereignty(fields=rules, default="allow")))
    made = prober(fleet)
    driver = Driver(fleet).succeed(SURE)
    assert driver.answer.tier == "edge"
    probe = ask(made, 0, 1.0)
    assert probe.request.query["history"].tolist() == [3]
    assert probe.url == EDGE_A
