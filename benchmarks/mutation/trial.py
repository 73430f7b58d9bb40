"""One mutant on trial: the tests likeliest to notice it first; no kill by a machine that is busy.

Whoever shares the machine must not flatter the score. So a test that failed must fail again, alone,
unless it has neither clock nor thread nor socket; and tests that did not end are given three times
the time before that counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mutants import CORE, ROOT, Place, mutated

SUITE = Path(__file__).resolve().parent / "suite.py"
SEEDS_TEST = (
    "tests/simulation/test_seeds.py::"
    "test_every_property_holds_for_every_seed_and_everything_is_seen"
)
PURE = "tests/sdk/core/"  # tests of pure code: what fails once fails always
FIRST_SPAN = 2.0  # seconds of tests that are tried before all others
SEEDS = 150  # of the simulator's
PATIENCE = 30.0  # seconds a process may take beside what its tests are known to take
SLOWER = 8.0  # times as long as known: two jobs and a busy machine are no endless loop
SECOND_TRY = 3.0  # times the time of the first
NO_TESTS, USAGE = 5, 4  # pytest's exit codes


class Verdict(NamedTuple):
    """What became of one mutant; ``by`` is the test that noticed it."""

    name: str
    killed: bool
    seconds: float
    by: str = ""


class Said(NamedTuple):
    """How one process of tests ended."""

    ended: bool  # in time
    code: int
    failed: str | None
    figures: dict[str, Any]


class Stage(NamedTuple):
    """Tests that are run in one process."""

    tests: list[str]
    seconds: float  # that they are known to take


class Tests:
    """What is known of the tests from a run without any change: what each takes, what it reaches.

    Raises RuntimeError when that run fails: a suite that fails anyway would kill everything."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self.seconds: dict[str, float] = figures["seconds"]
        self._imported = {module: set(lines) for module, lines in figures["imported"].items()}
        self._reached = {
            name: {module: set(lines) for module, lines in modules.items()}
            for name, modules in figures["reached"].items()
        }

    @classmethod
    def measured(cls, kept: Path | None) -> Tests:
        """Those of ``kept``, when it is of the same sources and tests, or else measured now."""
        digest = _digest()
        if kept is not None and kept.exists():
            figures = json.loads(kept.read_text("utf-8"))
            if figures["digest"] == digest:
                return cls(figures)
        with tempfile.TemporaryDirectory() as folder:
            copy_of_the_sdk(Path(folder))
            said = _run(None, Path(folder), limit=1800.0)
        if not said.ended or said.code != 0:
            raise RuntimeError(f"without any change the tests do not pass: {said.failed}")
        if kept is not None:
            kept.write_text(json.dumps({**said.figures, "digest": digest}), "utf-8")
        return cls(said.figures)

    def stages(self, place: Place) -> Iterator[Stage]:
        """What is run against a mutant, till something notices it. Short tests that reach it and
        little else come first; then the seeds; then what may reach it unseen: tests beside those in
        one file, whose fixture may have done it, tests that work in other processes, and, where the
        place is passed at import, all. A file that never comes by the place cannot tell."""
        near = sorted(self._near(place), key=self._worth)
        files = {name.partition("::")[0] for name in near}
        far = [
            name
            for name in sorted(self.seconds, key=self._worth)
            if name not in near
            and name != SEEDS_TEST
            and (
                self._is_imported(place)
                or name.partition("::")[0] in files
                or not self._reached.get(name)
            )
        ]
        first = self._within(near, FIRST_SPAN)
        for tests in (near[:first], near[first:]):
            yield self._stage(tests)
        yield self._stage([SEEDS_TEST])
        yield self._stage(far)

    def _near(self, place: Place) -> list[str]:
        """The tests that reach the place; of one that is passed at import, those of its module."""
        lines = set(range(place.first, place.last + 1))
        imported = self._is_imported(place)
        return [
            name
            for name in self.seconds
            if name != SEEDS_TEST
            and (reached := self._reached.get(name, {}).get(place.module))
            and (imported or lines & reached)
        ]

    def _is_imported(self, place: Place) -> bool:
        lines = range(place.first, place.last + 1)
        return not self._imported.get(place.module, set()).isdisjoint(lines)

    def _worth(self, name: str) -> float:
        breadth = sum(len(lines) for lines in self._reached.get(name, {}).values())
        return self.seconds[name] * (1 + breadth)

    def _within(self, names: list[str], span: float) -> int:
        """How many of them take so long together, one at least."""
        total = 0.0
        for place, name in enumerate(names):
            total += self.seconds[name]
            if total > span:
                return place + 1
        return len(names)

    def _stage(self, names: list[str]) -> Stage:
        return Stage(names, sum(self.seconds[name] for name in names))


def try_mutant(place: Place, tests: Tests) -> Verdict:
    """Make the change in a copy of the SDK and run the tests against it, stage by stage."""
    started, by = time.monotonic(), None
    with tempfile.TemporaryDirectory() as folder:
        path = copy_of_the_sdk(Path(folder)) / "_core" / place.module
        path.write_text(mutated(path.read_text("utf-8"), place.number), "utf-8")
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            cached.unlink()  # it is told from the source by size and second only
        for stage in tests.stages(place):
            by = _noticed(stage, Path(folder))
            if by is not None:
                break
    seconds = round(time.monotonic() - started, 1)
    return Verdict(place.name, by is not None, seconds, by or "")


def copy_of_the_sdk(folder: Path) -> Path:
    """A copy of the package, to be found before the installed one."""
    return Path(shutil.copytree(CORE.parent, folder / "tierline"))


def _noticed(stage: Stage, folder: Path) -> str | None:
    """The test that noticed the change, twice, or None."""
    left, limit = stage.tests, PATIENCE + SLOWER * stage.seconds
    while left:
        said = _run(left, folder, limit=limit)
        if not said.ended:
            again = _run(left, folder, limit=SECOND_TRY * limit)
            if not again.ended:
                return "no end"
            said = again
        if said.code in (0, NO_TESTS):
            return None
        if said.code == USAGE:
            raise RuntimeError(f"these tests could not be run: {left}")
        if said.failed is None:  # not even imported, or the process died
            again = _run(left, folder, limit=SECOND_TRY * limit)
            return None if again.ended and again.code == 0 else f"exit code {said.code}"
        if said.failed.startswith(PURE):
            return said.failed
        alone = _run([said.failed], folder, limit=SECOND_TRY * limit)
        if not alone.ended or alone.code != 0:
            return said.failed
        left = left[left.index(said.failed) + 1 :]
    return None


def _run(tests: list[str] | None, folder: Path, *, limit: float) -> Said:
    """Run tests in a process of their own, against the copy in ``folder``; ``limit`` in seconds."""
    order = folder / "order.json"
    order.write_text(json.dumps(tests), "utf-8")
    found = f"{folder}{os.pathsep}{ROOT}"  # the copy, and the tests for their workers
    environment = {**os.environ, "PYTHONPATH": found, "TIERLINE_SEEDS": str(SEEDS)}
    process = subprocess.Popen(
        [sys.executable, str(SUITE), str(order)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its workers end with it
    )
    try:
        text, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Said(False, -1, None, {})
    last = text.strip().rpartition("\n")[2]
    if not last.startswith('{"failed"'):
        if tests is None:
            raise RuntimeError(f"the tests could not be run: {text[-2000:]}")
        return Said(True, process.returncode or 1, None, {})
    figures = json.loads(last)
    return Said(True, process.returncode, figures.pop("failed"), figures)


def _digest() -> str:
    """Of everything that decides what the tests reach."""
    digest = hashlib.sha256()
    for path in sorted([*CORE.parent.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()
