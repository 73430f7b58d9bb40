"""A node with a GPU keeps rows and states there; shown in a process whose CUDA is simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def simulate(marked: str) -> str:
    file = str(Path(__file__).with_name("simulated_device.py"))
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
            "-W", "ignore::RuntimeWarning", "-m", marked, file,
        ],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_items_in_device_memory_answer_as_the_hosts_in_the_simulator() -> None:
    assert "8 passed" in simulate("not nightly")


@pytest.mark.nightly
def test_float_items_in_device_memory_do_so_too() -> None:
    assert "1 passed" in simulate("nightly")
