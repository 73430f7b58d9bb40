"""A failing run is taken apart until nothing can be left out, and its line reproduces it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.testing import (
    FaultKind,
    Outcome,
    PropertyFailed,
    check,
    draw_schedule,
    read_schedule,
    shrink,
    simulate,
    steady_load,
    write_schedule,
)
from tierline.testing.shrinking import minimal

from .fleets import fault, fleet

URLS = [endpoint.url for tier in fleet().tiers for endpoint in tier.endpoints]


def nobody_is_turned_away(outcomes: Sequence[Outcome]) -> str | None:
    """A property that a crash of every edge endpoint breaks."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    return f"{len(failed)} calls failed" if failed else None


@given(st.sets(st.integers(0, 30), max_size=4), st.integers(31, 60))
def test_ddmin_finds_exactly_what_is_needed(needed: set[int], size: int) -> None:
    found = minimal(range(size), lambda parts: needed <= set(parts))
    assert set(found) == needed


def test_ddmin_leaves_no_part_that_could_go() -> None:
    def fails(parts: tuple[int, ...]) -> bool:
        return sum(parts) >= 40

    found = minimal(range(14), fails)
    assert fails(found)
    assert not any(fails(found[:i] + found[i + 1 :]) for i in range(len(found)))


def test_a_shrunk_run_keeps_only_the_faults_that_break_the_property() -> None:
    noise = draw_schedule(
        Random(3), URLS[:2], until=4.0, kinds=(FaultKind.DUPLICATE, FaultKind.SWAP), share=1.0
    )
    needed = (fault("crash", "edge-1"), fault("crash", "edge-2"))
    run = simulate(
        fleet(edge=2, cloud=0),
        faults=(*noise, *needed),
        load=steady_load(20.0, 2.0),
        properties=[nobody_is_turned_away],
    )
    smallest = shrink(run)
    assert smallest.plan.faults == needed
    assert len(smallest.plan.load) == 1
    assert [v.rule for v in smallest.violations] == ["nobody_is_turned_away"]


def test_what_holds_cannot_be_shrunk() -> None:
    with pytest.raises(ValueError, match="nothing to shrink"):
        shrink(simulate(fleet(), faults=["none"]))


def test_a_failure_prints_the_line_that_reproduces_it() -> None:
    faults = (fault("swap", "edge-1"), fault("refuse", "edge-1"), fault("refuse", "edge-2"))
    config = fleet(edge=2, cloud=0)
    run = simulate(config, faults=faults, seed=11, properties=[nobody_is_turned_away])
    with pytest.raises(PropertyFailed) as failed:
        check(run)
    line = next(line for line in str(failed.value).splitlines() if line.startswith("reproduce:"))
    assert "--seed 11" in line
    schedule = read_schedule(line.split("--schedule ")[1].strip("'"))
    assert schedule == faults[1:]
    again = simulate(config, faults=schedule, seed=11, properties=[nobody_is_turned_away])
    assert [v.rule for v in again.violations] == ["nobody_is_turned_away"]


@given(st.integers(0, 2**32))
def test_a_schedule_survives_being_written_and_read(seed: int) -> None:
    faults = draw_schedule(Random(seed), URLS, until=4.0)
    assert read_schedule(write_schedule(faults)) == faults
