"""The suite is tested itself: every planted bug is caught, and without one nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from .planted_bugs import SDK, PlantedBug, copy_of_the_sdk, planted_bugs, suite_fails

BUGS = planted_bugs()
FAST = [bug for bug in BUGS if bug.fast]
NIGHTLY = [bug for bug in BUGS if not bug.fast]


def assert_caught(bug: PlantedBug, folder: Path) -> None:
    package = copy_of_the_sdk(folder)
    bug.plant(package)
    caught, said = suite_fails(folder, bug.caught_by, bug.seeds)
    assert caught, f"{bug.name} ({bug.what}) passed:\n{said[-2000:]}"


def test_thirty_bugs_or_more_are_planted_from_many_traps() -> None:
    assert len(BUGS) >= 30
    assert len({bug.trap for bug in BUGS}) >= 15


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_finds_its_place_in_the_source(bug: PlantedBug) -> None:
    assert bug.is_applicable(SDK)
    assert bug.find != bug.replace


@pytest.mark.slow
@pytest.mark.parametrize("bug", FAST, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: PlantedBug, tmp_path: Path) -> None:
    assert_caught(bug, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("bug", NIGHTLY, ids=lambda bug: bug.name)
def test_every_other_planted_bug_is_caught(bug: PlantedBug, tmp_path: Path) -> None:
    assert_caught(bug, tmp_path)


@pytest.mark.nightly
def test_without_a_bug_the_same_tests_pass(tmp_path: Path) -> None:
    copy_of_the_sdk(tmp_path)
    tests = tuple(sorted({test for bug in BUGS for test in bug.caught_by}))
    fails, said = suite_fails(tmp_path, tests, seeds=1500)
    assert not fails, said
