"""`import tierline` is light where only its four dependencies are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

BAR_MS = 150.0


@pytest.fixture(scope="module")
def figures(repository: Path) -> dict[str, Any]:
    """What the import benchmark measured; values are JSON's, hence Any."""
    script = repository / "benchmarks" / "import_time" / "run.py"
    done = subprocess.run(
        [sys.executable, str(script), "--repeats", "5", "--json", "-"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_import_tierline_takes_under_150_ms_beyond_numpy(figures: dict[str, Any]) -> None:
    # CPU time: an import waits for nothing but the processor, and beside busy neighbours the clock
    # on the wall measures them. `make promises` holds the wall's median against the same bar.
    assert figures["beyond_numpy_cpu_ms"] < BAR_MS


def test_import_tierline_loads_no_torch_onnxruntime_or_numba(figures: dict[str, Any]) -> None:
    assert not {"torch", "onnxruntime", "numba"} & set(figures["loaded"])
    assert {"tierline", "numpy"} <= set(figures["loaded"])


def test_importing_the_sdk_loads_no_other_part_of_tierline(figures: dict[str, Any]) -> None:
    ours = {name for name in figures["loaded"] if name.startswith("tierline")}
    assert ours == {"tierline"}
