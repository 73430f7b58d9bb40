"""The embedded example recommends, ranks and times with a bundle the factory has just made."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "embedded_mode.py"
TIMEOUT = 240.0  # seconds: two trainings of one epoch each, on a busy machine
TINY = ("--synthetic", "--recipe", "quick", "--users", "120", "--items", "240", "--epochs", "1")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def edge_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edge bundle of a tiny made-up shop."""
    out = tmp_path_factory.mktemp("training")
    train = [sys.executable, "-m", "tierline.cli", "train", *TINY, "--out", str(out)]
    subprocess.run(train, check=True, capture_output=True, timeout=TIMEOUT)
    bundles = json.loads((out / "results.json").read_text())["bundles"]
    return Path(bundles["edge"])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)


def test_the_embedded_edge_recommends_and_ranks_alike(edge_bundle: Path) -> None:
    done = run(str(edge_bundle), "--history", "3", "5", "8", "--k", "4", "--allow-unsigned")
    assert done.returncode == 0, done.stderr
    items = [int(found) for found in re.findall(r"item (\d+)", done.stdout)]
    assert len(items) == 4
    assert not set(items) & {3, 5, 8}
    assert f"the same items as candidates: {items}" in done.stdout
    assert "µs (median)" in done.stdout


def test_an_unsigned_bundle_is_refused_unless_it_is_allowed(edge_bundle: Path) -> None:
    done = run(str(edge_bundle))
    assert done.returncode != 0
    assert "sign" in done.stderr


def test_help_shows_an_example() -> None:
    assert "example:" in run("--help").stdout
