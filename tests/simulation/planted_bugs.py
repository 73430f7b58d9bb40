"""Bugs planted on purpose: one file each, a text to find in the SDK and what to put in its place.

A copy of the package with the bug runs the tests that should notice, in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SDK = ROOT / "sdk" / "tierline"
PLANTED = Path(__file__).resolve().parent / "planted"
TIMEOUT = 300.0  # seconds a suite may take
SECOND_TRY = 3.0  # times as long; a bug that hangs it then, too, is caught


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedBug:
    """One bug. ``trap`` is its line in the catalogue (T1–T30), a requirement (R) or a promise (P);
    ``caught_by`` the tests that must fail, ``seeds`` how many of the simulator's they take."""

    name: str
    trap: str
    what: str
    file: str
    find: str
    replace: str
    caught_by: tuple[str, ...]
    seeds: int = 100
    fast: bool = False

    def is_applicable(self, package: Path) -> bool:
        """Whether its text is in the source exactly once."""
        return (package / self.file).read_text("utf-8").count(self.find) == 1

    def plant(self, package: Path) -> None:
        """Change the copy."""
        path = package / self.file
        path.write_text(path.read_text("utf-8").replace(self.find, self.replace), "utf-8")


def planted_bugs() -> list[PlantedBug]:
    """All of them, by name."""
    bugs = []
    for path in sorted(PLANTED.glob("*.toml")):
        table = tomllib.loads(path.read_text("utf-8"))
        table["caught_by"] = tuple(table["caught_by"])
        bugs.append(PlantedBug(name=path.stem, **table))
    return bugs


def copy_of_the_sdk(folder: Path) -> Path:
    """A copy of the package, to be found before the installed one."""
    package = folder / "tierline"
    shutil.copytree(SDK, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def suite_fails(folder: Path, tests: tuple[str, ...], seeds: int) -> tuple[bool, str]:
    """Run tests against the copy in ``folder``: whether one fails, and what was said. One without
    an end has failed, but a machine that stood still must not catch anything: it is tried again,
    for longer. Raises RuntimeError when they could not be run at all."""
    for limit in (TIMEOUT, SECOND_TRY * TIMEOUT):
        code, said = _run(folder, tests, seeds, limit)
        if code is not None:
            break
    else:
        return True, f"no end after {limit:.0f} s"
    if code not in (0, 1):
        raise RuntimeError(f"pytest ended with {code}: {said}")
    return code == 1, said


def _run(folder: Path, tests: tuple[str, ...], seeds: int, limit: float) -> tuple[int | None, str]:
    """The exit code, None when it did not end in time, and what was said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, "-m", "not nightly", *tests],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder), "TIERLINE_SEEDS": str(seeds)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its workers end with it
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
    return process.returncode, said
