"""The mutation benchmark changes one thing at a time, and nothing that happens once kills."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

MUTATION = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "mutation"
SOURCE = """
LIMIT = 3

def room(used, limit=LIMIT):
    if (used
            < limit):
        return True
    return used == 0 and limit - used > 1
"""
EVERYBODY = {"seconds": {}, "reached": {}, "imported": {}}


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Any, Any]]:
    """What changes the source, and what tries a change; scripts' folders are no package."""
    sys.path.insert(0, str(MUTATION))
    try:
        yield import_module("mutants"), import_module("trial")
    finally:
        sys.path.remove(str(MUTATION))


@pytest.fixture
def mutants(parts: tuple[Any, Any]) -> Any:
    return parts[0]


@pytest.fixture
def trial(parts: tuple[Any, Any]) -> Any:
    return parts[1]


def test_every_change_differs_from_the_source_and_from_every_other(mutants: Any) -> None:
    places = list(mutants.places_in("room.py", SOURCE))
    changed = {mutants.mutated(SOURCE, place.number) for place in places}
    assert len(changed) == len(places) == len({place.name for place in places})
    assert ast.unparse(ast.parse(SOURCE)) not in changed


def test_a_change_is_reached_where_its_statement_is_without_its_body(mutants: Any) -> None:
    spans = {(p.what, p.first, p.last) for p in mutants.places_in("room.py", SOURCE)}
    assert ("Lt → LtE", 5, 6) in spans
    assert ("True → False", 7, 7) in spans
    assert ("3 → 4", 2, 2) in spans


def test_equivalent_changes_are_found_in_the_core_as_it_is(mutants: Any) -> None:
    every = list(mutants.all_places())
    assert len(every) - len(mutants.without_equivalent(every)) >= 10


def known_tests(trial: Any) -> Any:
    lines = {
        "a.py::short": [8],
        "a.py::long": [8],
        "a.py::beside": [20],
        "b.py::wide": [4, 5, 6, 7, 8],
        "c.py::elsewhere": [20],
    }
    seconds = {**dict.fromkeys([*lines, "d.py::forks"], 0.1), trial.SEEDS_TEST: 4.0}
    return trial.Tests(
        {
            "seconds": {**seconds, "a.py::long": 3.0},
            "reached": {name: {"room.py": at} for name, at in lines.items()},
            "imported": {"room.py": [2]},
        }
    )


def test_short_and_narrow_tests_that_reach_a_change_come_first(mutants: Any, trial: Any) -> None:
    [place] = [p for p in mutants.places_in("room.py", SOURCE) if p.what == "Eq → NotEq"]
    stages = list(known_tests(trial).stages(place))
    assert [stage.tests for stage in stages] == [
        ["a.py::short", "b.py::wide", "a.py::long"],
        [],
        [trial.SEEDS_TEST],
        ["d.py::forks", "a.py::beside"],
    ]


def test_what_is_run_at_import_may_be_noticed_by_every_test(mutants: Any, trial: Any) -> None:
    [place] = [p for p in mutants.places_in("room.py", SOURCE) if p.what == "3 → 4"]
    first, second, _, rest = known_tests(trial).stages(place)
    assert {*first.tests, *second.tests, *rest.tests, trial.SEEDS_TEST} == {
        *known_tests(trial).seconds
    }
    assert rest.tests == ["d.py::forks"]


def judge(trial: Any, monkeypatch: pytest.MonkeyPatch, *said: Any) -> tuple[str | None, list[Any]]:
    """What is made of processes that end like this, and what was run."""
    script, runs = list(said), []

    def run(tests: list[str], folder: Path, *, limit: float) -> Any:
        runs.append((tests, limit))
        return script.pop(0)

    monkeypatch.setattr(trial, "_run", run)
    by = trial._noticed(trial.Stage(["a", "b", "c"], 1.0), Path())
    assert not script
    return by, runs


def test_a_failure_counts_when_the_test_fails_again_alone(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails, passes = trial.Said(True, 1, "b", {}), trial.Said(True, 0, None, {})
    by, runs = judge(trial, monkeypatch, fails, fails)
    assert by == "b"
    assert [tests for tests, _ in runs] == [["a", "b", "c"], ["b"]]
    by, runs = judge(trial, monkeypatch, fails, passes, passes)
    assert by is None
    assert [tests for tests, _ in runs] == [["a", "b", "c"], ["b"], ["c"]]


def test_a_failure_of_pure_code_counts_at_once(trial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pure = f"{trial.PURE}test_breaker.py::b"
    by, runs = judge(trial, monkeypatch, trial.Said(True, 1, pure, {}))
    assert by == pure
    assert len(runs) == 1


def test_the_tests_of_pure_code_have_neither_clock_nor_thread_nor_socket() -> None:
    folder = MUTATION.parent.parent / "tests" / "sdk" / "core"
    acting = {"asyncio", "multiprocessing", "socket", "subprocess", "threading", "time"}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert acting.isdisjoint(name.partition(".")[0] for name in names), path.name


def test_no_end_counts_when_three_times_the_time_brings_none(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, passes = trial.Said(False, -1, None, {}), trial.Said(True, 0, None, {})
    by, [(_, first), (_, second)] = judge(trial, monkeypatch, endless, endless)
    assert by == "no end"
    assert second == pytest.approx(3 * first)
    by, _ = judge(trial, monkeypatch, endless, passes)
    assert by is None


def test_a_core_that_cannot_be_imported_counts_when_it_cannot_twice(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, passes = trial.Said(True, 2, None, {}), trial.Said(True, 0, None, {})
    by, _ = judge(trial, monkeypatch, broken, broken)
    assert by == "exit code 2"
    by, _ = judge(trial, monkeypatch, broken, passes)
    assert by is None
    by, _ = judge(trial, monkeypatch, trial.Said(True, 5, None, {}))  # none of them is there
    assert by is None


def test_a_suite_that_fails_without_any_change_is_no_judge(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "copy_of_the_sdk", lambda folder: folder)
    monkeypatch.setattr(trial, "_run", lambda *_, **__: trial.Said(True, 1, "a", EVERYBODY))
    with pytest.raises(RuntimeError, match="without any change"):
        trial.Tests.measured(None)
