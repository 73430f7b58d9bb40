"""The kernels' benchmarks run from a clean checkout: on tiny sizes, simulated without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.slow


def run(script: str, *arguments: str, simulate: bool = False) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), "--json", "-", *arguments],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1" if simulate else "0"},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found, done.stdout


def test_the_gpu_benchmark_checks_everything_in_the_simulator_and_says_its_times_mean_nothing() -> (
    None
):
    told, printed = run("gpu/run.py", simulate=True)
    assert "SIMULATED" in printed
    assert told["setting"]["simulated"] is True
    assert told["figures"]["checked"] == len(told["results"]) == 11
    # No figure of a simulation may pass for one of a GPU.
    assert set(told["figures"]) == {"checked", "seconds"}
    assert {each["case"] for each in told["results"]} >= {
        "bag float32", "bag float16", "bag int8", "bag int8 zipf", "topk", "dot_topk int8 B=1",
        "recommend pooled",
    }  # fmt: skip


def test_the_cpu_benchmark_compares_every_case_with_torch() -> None:
    told, _ = run("kernels/run.py", "--scale", "0.01", "--repeats", "2", "--warm-up", "1")
    cases = {each["case"] for each in told["results"]}
    assert cases == {"bag float32", "bag int8", "bag int8 affine", "topk", "dot_topk int8"}
    assert told["topk"]["times_torch"] > 0
    assert len(told["limits"]) == 4
    assert all(each["gb_per_s"] > 0 for each in told["limits"].values())


def test_recall_is_measured_on_the_table_that_was_given(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    rows[0] = 0.0  # padding: no item
    np.save(tmp_path / "items.npy", rows)
    told, _ = run("kernels/recall.py", "--table", str(tmp_path / "items.npy"))
    assert told["trained"] is True
    assert "1999 items" in told["table"]
    assert 0.9 < told["int8"] < told["int8_rescored"] <= 1.0
