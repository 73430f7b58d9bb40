"""Own models: the sure user is answered by the ONNX file, the unsure one by the torch module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "bring_your_own" / "run.py"
TIMEOUT = 120.0  # seconds for one server to import torch on a busy machine

pytestmark = pytest.mark.slow


def test_the_edge_answers_when_sure_and_the_cloud_when_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("a user with strong tastes: edge answered") for line in lines)
    assert any(line.startswith("a user like any other: cloud answered (full") for line in lines)
    assert len(list(tmp_path.glob("taste-1-*/manifest.json"))) == 2


def test_help_shows_an_example() -> None:
    command = [sys.executable, str(EXAMPLE), "--help"]
    assert "example:" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
