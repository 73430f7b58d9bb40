"""Bugs planted on purpose: one file each, a text to find in the SDK and what to put in its place.

A copy of the package with the bug runs the tests that should notice, in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SDK = ROOT / "sdk" / "tierline"
PLANTED = Path(__file__).resolve().parent / "planted"
TIMEOUT = 300  # seconds a suite may take; a bug that hangs it is caught, too


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
    """Run tests against the copy in ``folder``: whether one fails, and what was said. Raises
    RuntimeError when they could not be run at all."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "TIERLINE_SEEDS": str(seeds)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, "-m", "not nightly", *tests],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True, f"no end after {TIMEOUT} s"
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.returncode == 1, done.stdout
