"""The command: a report of figures that add up, JSON that is JSON, one seed with its trace."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tierline import ConfigurationError
from tierline.testing.cli import SIMULATE

CONFIG = """
[[tiers]]
name = "edge"
kind = "edge"
endpoints = ["http://e1:8000", "http://e2:8000"]
[[tiers]]
name = "cloud"
kind = "cloud"
endpoints = ["http://c1:8000"]
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A client's TOML file."""
    path = tmp_path / "tierline.toml"
    path.write_text(CONFIG, "utf-8")
    return str(path)


def simulate(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    SIMULATE.configure(parser)
    return SIMULATE.run(parser.parse_args(arguments))


def test_a_healthy_fleet_answers_everything(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(config, "--faults", "none", "--seeds", "2", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["availability_any"] == figures["availability_full"] == 1.0
    assert figures["calls"] == 200
    assert sum(figures["tier_mix"].values()) == pytest.approx(1.0)
    assert figures["violations"] == []


def test_crashes_cost_quality_and_the_report_says_how_much(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(config, "--faults", "crash,cut", "--seeds", "10", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["availability_full"] < 1.0
    assert figures["worst_availability"] <= figures["availability_any"]


def test_the_report_is_for_reading(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(config, "--seeds", "2", "--calls", "20") == 0
    shown = capsys.readouterr().out
    assert "answered in time" in shown
    assert "worst seed" in shown


def test_one_seed_shows_its_trace_and_the_schedule_can_be_given(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = "crash@http://e1:8000[0.0000+9.0000]x1.0000"
    assert simulate(config, "--seed", "3", "--schedule", schedule) == 0
    shown = capsys.readouterr().out
    assert "refused" in shown
    assert "trace hash" in shown


def test_an_unknown_fault_is_named(config: str) -> None:
    with pytest.raises(ConfigurationError, match="'earthquake' is no fault"):
        simulate(config, "--faults", "earthquake")
