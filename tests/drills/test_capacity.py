"""The ramp that finds what a fleet carries, on calls made up by hand; the tempo of clients."""

from __future__ import annotations

from pathlib import Path

import logs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_drills.capacity import FACTOR, FIRST, Ramp
from tierline_drills.errors import BadExperiment
from tierline_drills.experiment import parse_experiment
from tierline_drills.records import Call
from tierline_drills.tempo import Tempo, class_of, set_tempo


def calls(latency: float) -> list[Call]:
    return [logs.call(i, i / 10, latency=latency) for i in range(50)]


FAST, SLOW = calls(0.005), calls(0.2)


def carried(most: float) -> float:
    """What a ramp finds of a fleet that is fast up to ``most`` calls a second."""
    ramp = Ramp(deadline=0.25)
    while ramp.step(FAST if ramp.rate <= most else SLOW):
        pass
    return ramp.carried


@given(st.floats(FIRST, 4000.0))
def test_the_ramp_finds_the_capacity_to_a_quarter_and_never_above(most: float) -> None:
    assert carried(most) <= most < carried(most) * FACTOR


def test_one_hiccup_does_not_end_the_ramp_and_two_in_a_row_do() -> None:
    ramp = Ramp(deadline=0.25)
    assert ramp.step(SLOW)
    assert ramp.rate == FIRST
    assert ramp.step(FAST)
    assert ramp.step(SLOW)
    assert ramp.step(SLOW)
    assert (ramp.rate, ramp.is_held) == (FIRST, True)
    assert not ramp.step(FAST)
    assert ramp.carried == FIRST


def test_what_was_carried_for_a_step_by_luck_is_not_what_the_fleet_holds() -> None:
    ramp = Ramp(deadline=0.25)
    while not ramp.is_held:
        ramp.step(FAST if ramp.rate <= 1000.0 else SLOW)
    while ramp.step(FAST if ramp.rate <= 600.0 else SLOW):
        pass
    assert 600.0 / FACTOR < ramp.carried <= 600.0


def test_a_fleet_that_holds_not_even_the_first_rate_carries_nothing() -> None:
    ramp = Ramp(deadline=0.25)
    ramp.step(FAST)
    while ramp.step(SLOW):
        pass
    assert ramp.carried == 0.0


def test_degraded_and_unanswered_calls_are_nothing_that_a_fleet_carries() -> None:
    degraded = [call._replace(quality="degraded") for call in FAST]
    for bad in (degraded, []):
        ramp = Ramp(deadline=0.25)
        ramp.step(bad)
        assert not ramp.step(bad)
        assert ramp.carried == 0.0


def test_a_load_is_a_share_of_the_capacity() -> None:
    document = {"title": "t", "description": "d", "extensions": [{"name": "tierline"}]}
    experiment = parse_experiment(document)
    assert experiment.loaded(0.7).own["load"] == {"share": 0.7}
    with pytest.raises(BadExperiment, match="share in"):
        experiment.loaded(70.0)


def test_a_client_calls_at_its_plans_rate_until_it_is_told_another(tmp_path: Path) -> None:
    tempo = Tempo({"rate": 40, "tempo": str(tmp_path / "tempo")})
    assert tempo.rate() == 40.0
    set_tempo(tmp_path / "tempo", 90.0)
    assert tempo.rate() == 90.0
    (tmp_path / "tempo").unlink()
    assert tempo.rate() == 90.0


@given(st.integers(0, 10**6))
def test_every_stretch_of_calls_holds_each_class_in_its_share(first: int) -> None:
    shares = {"critical": 0.2, "default": 0.2, "sheddable": 0.6}
    found = [class_of(number, shares) for number in range(first, first + 100)]
    for name, share in shares.items():
        assert abs(found.count(name) / 100 - share) <= 0.05
    assert class_of(first, {}) == "default"
