"""Outliers are left out and come back; never too many, never the last one, never for a model's
own trouble."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tierline._config import EjectionPolicy
from tierline._core.ejection import Outliers, Standing

POLICY = EjectionPolicy(jitter=0.0)


def tier(count: int, policy: EjectionPolicy = POLICY) -> tuple[Outliers, list[Standing]]:
    standings = [Standing(policy) for _ in range(count)]
    return Outliers(policy, standings), standings


def fail(
    outliers: Outliers, standing: Standing, times: int, now: float = 0.0, model: str = "m"
) -> bool:
    """Whether the last of so many failures ejected it."""
    ejected = False
    for _ in range(times):
        ejected = outliers.failed(standing, model, now, unreached=False, jitter=0.5)
    return ejected


def test_five_failures_in_a_row_eject_and_a_second_later_it_is_back() -> None:
    outliers, (bad, _) = tier(2)
    assert not fail(outliers, bad, 4)
    assert fail(outliers, bad, 1)
    assert bad.is_out("m", 0.99)
    assert not bad.is_out("m", 1.0)


def test_an_answer_between_breaks_the_row() -> None:
    outliers, (bad, _) = tier(2)
    fail(outliers, bad, 4)
    bad.succeeded(0.0)
    assert not fail(outliers, bad, 4)


def test_a_quarter_of_failures_ejects_when_the_peers_fare_better() -> None:
    outliers, (bad, good) = tier(2)
    for _ in range(50):
        good.succeeded(0.0)
    for _ in range(5):
        for _ in range(3):
            bad.succeeded(0.0)
        fail(outliers, bad, 1)
    assert bad.is_out("m", 0.5)


def test_less_than_a_quarter_of_failures_or_too_few_calls_do_not_eject() -> None:
    for answers, failures in ((16, 4), (12, 6)):
        outliers, (bad, good) = tier(2)
        for _ in range(50):
            good.succeeded(0.0)
        for i in range(answers):
            bad.succeeded(0.0)
            if i < failures:
                assert not fail(outliers, bad, 1)
    outliers, (bad, good) = tier(2)
    for _ in range(50):
        good.succeeded(0.0)
    for i in range(40):
        bad.succeeded(0.0)
        if i % 4 == 0:
            assert not fail(outliers, bad, 1)  # a fifth of all


def test_what_it_was_ejected_for_is_not_held_against_it_again() -> None:
    outliers, (bad, good) = tier(2)
    for _ in range(50):
        good.succeeded(0.0)
    fail(outliers, bad, 5)
    assert not bad.is_out("m", 1.5)
    for _ in range(17):
        bad.succeeded(1.5)
    assert not fail(outliers, bad, 3, 1.5)  # 3 of 20 since it is back; 8 of 25 with the old ones


def test_nobody_is_ejected_for_what_all_suffer() -> None:
    outliers, standings = tier(3)
    for now in range(20):
        for standing in standings:
            standing.succeeded(now / 10)
            fail(outliers, standing, 1, now / 10)
    assert not any(standing.is_out("m", 2.0) for standing in standings)


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_half_may_be_out_one_at_least_and_never_the_last(count: int, most: int) -> None:
    outliers, standings = tier(count)
    for standing in standings:
        fail(outliers, standing, 9)
    assert sum(standing.is_out("m", 0.0) for standing in standings) == most


def test_each_ejection_lasts_twice_as_long_till_a_minute_of_health() -> None:
    outliers, (bad, _) = tier(2)
    now, spans = 0.0, []
    for _ in range(7):
        assert fail(outliers, bad, 5, now)
        back = now
        while bad.is_out("m", back):
            back += 0.5
        spans.append(back - now)
        now = back
    assert spans == [1, 2, 4, 8, 16, 30, 30]
    assert fail(outliers, bad, 5, now + 60.0)
    assert not bad.is_out("m", now + 61.0)


@given(st.floats(0, 0.999))
def test_the_return_is_jittered_by_a_fifth(jitter: float) -> None:
    outliers, (bad, _) = tier(2, EjectionPolicy())
    for _ in range(5):
        outliers.failed(bad, "m", 0.0, unreached=False, jitter=jitter)
    assert bad.is_out("m", 0.799)
    assert not bad.is_out("m", 1.2)


def test_one_models_trouble_keeps_only_that_model_away() -> None:
    outliers, (bad, _) = tier(2)
    assert fail(outliers, bad, 5, model="poisoned")
    assert bad.is_out("poisoned", 0.5)
    assert not bad.is_out("healthy", 0.5)


def test_two_models_trouble_or_an_endpoint_never_reached_keeps_all_away() -> None:
    outliers, (bad, _) = tier(2)
    fail(outliers, bad, 4, model="one")
    assert fail(outliers, bad, 1, model="other")
    assert bad.is_out("third", 0.5)
    outliers, (bad, _) = tier(2)
    for _ in range(5):
        outliers.failed(bad, "one", 0.0, unreached=True, jitter=0.5)
    assert bad.is_out("third", 0.5)


def test_its_share_grows_from_a_tenth_to_the_whole_in_half_a_minute() -> None:
    outliers, (bad, _) = tier(2)
    fail(outliers, bad, 5)
    assert not bad.is_out("m", 1.0)
    shares = [bad.share(1.0 + seconds) for seconds in (0.0, 3.0, 15.0, 27.0, 30.0)]
    assert shares == pytest.approx([0.1, 0.1, 0.5, 0.9, 1.0])
    assert bad.is_plain


def test_health_probes_take_out_and_bring_back_but_pardon_nothing() -> None:
    outliers, (bad, _) = tier(2)
    fail(outliers, bad, 5)
    bad.probed(down=False, now=0.1)
    assert bad.is_out("m", 0.5)
    bad.probed(down=True, now=0.6)
    assert bad.is_out("m", 5.0)
    bad.probed(down=False, now=6.0)
    assert not bad.is_out("m", 6.0)
    assert bad.share(6.0) == 0.1


@pytest.mark.parametrize(("jitter", "span"), [(0.0, 0.8), (0.5, 1.0), (0.75, 1.1)])
def test_the_least_jitter_lets_it_return_a_fifth_sooner_and_the_most_a_fifth_later(
    jitter: float, span: float
) -> None:
    standing = Standing(EjectionPolicy())
    standing.failed("m", 0.0, unreached=True)
    standing.eject(0.0, jitter)
    assert standing.is_out("m", 0.999 * span)
    assert not standing.is_out("m", 1.001 * span)


@pytest.mark.parametrize(("since", "is_out"), [(9.999, True), (10.0, False)])
def test_that_two_models_failed_is_forgotten_after_a_window(since: float, is_out: bool) -> None:
    standing = Standing(POLICY)
    standing.failed("one", 5.0, unreached=False)
    standing.failed("other", 5.0, unreached=False)
    standing.eject(5.0 + since, 0.5)
    assert standing.is_out("other", 5.0 + since)
    assert standing.is_out("third", 5.0 + since) is is_out


def test_two_models_that_fail_in_turns_with_an_answer_between_are_each_its_own_trouble() -> None:
    standing = Standing(POLICY)
    standing.failed("one", 0.0, unreached=False)
    standing.succeeded(0.0)
    standing.failed("other", 0.0, unreached=False)
    standing.eject(0.0, 0.5)
    assert standing.is_out("other", 0.5)
    assert not standing.is_out("one", 0.5)


class EjectionMachine(RuleBasedStateMachine):
    """Whatever happens: the cap holds, nobody stays out for longer than the cap of time."""

    @initialize(count=st.integers(1, 6))
    def start(self, count: int) -> None:
        self.now = 0.0
        self.outliers, self.standings = tier(count, EjectionPolicy())
        self.out_since: dict[int, float] = {}

    @rule(which=st.integers(0, 5), model=st.sampled_from("ab"), unreached=st.booleans())
    def fail(self, which: int, model: str, unreached: bool) -> None:
        place = which % len(self.standings)
        standing = self.standings[place]
        before = standing.is_out(model, self.now)
        if self.outliers.failed(standing, model, self.now, unreached=unreached, jitter=0.7):
            assert not before or not standing.is_out("other", self.now)
            assert standing.is_out(model, self.now)
            self.out_since[place] = self.now

    @rule(which=st.integers(0, 5), times=st.integers(1, 30))
    def succeed(self, which: int, times: int) -> None:
        for _ in range(times):
            self.standings[which % len(self.standings)].succeeded(self.now)

    @rule(span=st.floats(0, 40))
    def wait(self, span: float) -> None:
        self.now += span

    @invariant()
    def enough_are_in(self) -> None:
        if not hasattr(self, "standings"):
            return
        for standing in self.standings:
            standing.advance(self.now)
            assert 0.1 <= standing.share(self.now) <= 1.0
        out = [place for place, one in enumerate(self.standings) if one.is_ejected]
        assert len(out) <= self.outliers.most_out < len(self.standings)
        assert all(self.now - self.out_since[place] < 30.0 * 1.2 for place in out)


EjectionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_ejection_machine = EjectionMachine.TestCase
