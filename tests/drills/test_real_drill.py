"""One drill from its first process to its last, on real nodes: too slow for every change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tierline.cli import main

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.nightly]


@pytest.mark.parametrize("scenario", ["server-crash", "network-cut", "model-fault", "data-loss"])
def test_a_scenario_is_survived_and_its_negative_control_is_not(
    scenario: str, tmp_path: Path
) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    command = ["drill", "run", scenario, "--negative", "also", "--set", "rate=30"]
    assert main([*command, "--out", str(out), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["negative_controls_that_passed"] == 0
    assert found[scenario]["safety"]["wrong_answers"] == 0
    again = tmp_path / "again.json"
    assert main(["drill", "report", str(out / f"{scenario}.jsonl"), "--json", str(again)]) == 0
    (report,) = json.loads(again.read_text())
    assert report == found[scenario]  # every figure again, from the raw log
