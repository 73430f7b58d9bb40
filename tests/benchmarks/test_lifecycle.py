"""The lifecycle benchmark in short: no call fails while bundles and nodes come and go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "lifecycle" / "run.py"


@pytest.mark.nightly
def test_no_call_fails_while_bundles_are_swapped_refused_and_nodes_restarted() -> None:
    sizes = ["--swaps", "10", "--rollbacks", "4", "--failed-loads", "5", "--restarts", "1"]
    done = subprocess.run(
        [sys.executable, str(RUN), *sizes, "--json", "-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for name in ("swapping", "failing", "restarting"):
        assert told[name]["failed"] == 0, told[name]
        assert told[name]["calls"] > 0
    assert told["swapping"]["refused"] == told["failing"]["loaded"] == 0
    assert told["restarting"]["exits_not_0"] == 0
