"""Runs named tests and prints how many passed and how many did not, as JSON on the last line.

A skipped test proves nothing, and neither does a selection that is empty: both count as unproven.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Tally:
    """Counts tests by how they ended; an error in set-up or collection counts as unproven."""

    def __init__(self) -> None:
        self.passed = 0
        self.unproven = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.unproven += 1
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self.unproven += 1


def main(selection: list[str]) -> int:
    """Run pytest on the selection; returns 0 when everything passed, else 3."""
    if not selection:
        sys.stderr.write("usage: python benchmarks/promises/proofs.py PYTEST-ARGUMENTS…\n")
        return 2
    sys.path.insert(0, str(ROOT))  # as `python -m pytest` has it: tests' own processes look there
    tally = Tally()
    code = pytest.main(["-q", *selection], plugins=[tally])
    unproven = max(tally.unproven, int(code != pytest.ExitCode.OK))
    sys.stdout.write("\n" + json.dumps({"passed": tally.passed, "unproven": unproven}) + "\n")
    return 0 if tally.passed and not unproven else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
