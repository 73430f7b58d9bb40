"""The drills that ship: each can be read, simulated and taken to Kubernetes, and can fail."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

import tierline_drills
from tierline.cli import main
from tierline_drills.experiment import Activity, Experiment, read_experiment
from tierline_drills.kubernetes import chaos_mesh
from tierline_drills.prediction import predicted, schedule_of
from tierline_drills.report import report

FOLDER = Path(tierline_drills.__file__).parent / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
SCENARIOS = {"network-interruption", "server-crash", "model-timeout", "model-fault", "data-loss"}
# Whose negative control the simulator models: what is lost is the callers', not a registry's.
MODELLED = [
    "server-crash",
    "frozen-node",
    "network-cut",
    "network-unplugged",
    "flapping-network",
    "cloud-lost",
    "slow-cloud",
    "model-timeout",
    "failing-model",
    "broken-connections",
    "combined",
    "restart-storm",
]


def activities(experiment: Experiment) -> list[Activity]:
    parts = (experiment.probes, experiment.method, experiment.rollbacks, experiment.stops)
    return [activity for part in parts for activity in part]


def test_the_five_scenarios_are_there() -> None:
    tags = {tag for path in FILES for tag in read_experiment(path).document["tags"]}
    assert tags >= SCENARIOS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_names_functions_that_take_its_arguments(path: Path) -> None:
    for activity in activities(read_experiment(path)):
        provider = activity.provider
        function = getattr(importlib.import_module(provider["module"]), provider["func"])
        inspect.signature(function).bind(**(provider.get("arguments") or {}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_has_bars_a_stop_and_a_negative_control(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.own["bars"]
    assert experiment.stops
    assert experiment.strategy == "always"
    assert experiment.negative().own != experiment.own


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_fault_of_an_experiment_is_mended_before_its_end(path: Path) -> None:
    faults, events, end = schedule_of(read_experiment(path))
    assert all(fault.start + fault.length <= end for fault in faults)
    assert events
    assert events[0].kind == "inject"


@pytest.mark.parametrize("stem", ["server-crash", "network-cut", "model-timeout", "model-fault"])
def test_the_simulator_carries_a_scenario_through_with_nobody_unserved(stem: str) -> None:
    experiment = read_experiment(FOLDER / f"{stem}.yaml", {"rate": 20, "fault": 4})
    found = report(predicted(experiment, stem, seed=1))
    assert found["availability"]["failed"] == 0
    assert found["availability"]["any"] == 1.0
    assert found["recovery"]["mttm"] <= 2.0


@pytest.mark.parametrize("stem", MODELLED)
def test_its_negative_control_fails_in_the_simulator_too(stem: str) -> None:
    experiment = read_experiment(FOLDER / f"{stem}.yaml", {"rate": 40, "fault": 4}).negative()
    found = report(predicted(experiment, stem, seed=1))
    assert found["availability"]["failed"] > 0
    assert found["passed"] is False


def test_the_simulator_sees_a_surge_refused_and_the_edge_at_work_all_the_while() -> None:
    experiment = read_experiment(FOLDER / "overload.yaml")
    found = report(predicted(experiment, "overload", seed=1))
    assert found["overload"]["of_capacity"] >= 0.95
    assert found["phases"]["before"]["availability"]["any"] == 1.0
    assert found["phases"]["fault"]["availability"]["any"] < 0.7
    assert found["phases"]["after"]["availability"]["any"] >= 0.99
    assert found["phases"]["fault"]["classes"].keys() == {"critical", "default", "sheddable"}


def test_an_experiment_becomes_a_workflow_of_chaos_mesh() -> None:
    experiment = read_experiment(FOLDER / "network-cut.yaml")
    workflow, refused = chaos_mesh(experiment, "cut", "shop")
    templates = {one["name"]: one for one in workflow["spec"]["templates"]}
    assert refused == []
    assert templates["step-0"]["networkChaos"]["action"] == "partition"
    assert templates["step-0"]["deadline"] == "6s"
    assert templates["entry"]["children"] == ["step-0", "step-1", "step-2"]


def test_clocks_names_and_disks_are_lied_about_by_chaos_mesh_too() -> None:
    steps = []
    for stem in ("clock-step", "names-lost", "disk-error"):
        workflow, _ = chaos_mesh(read_experiment(FOLDER / f"{stem}.yaml"), stem, "shop")
        steps += workflow["spec"]["templates"]
    found = {one["templateType"]: one for one in steps}
    assert found["TimeChaos"]["timeChaos"]["timeOffset"] == "-300s"
    assert found["DNSChaos"]["dnsChaos"]["action"] == "error"
    assert found["IOChaos"]["ioChaos"]["errno"] == 5


def test_what_chaos_mesh_cannot_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "kubernetes", str(FOLDER / "data-loss.yaml")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["kind"] == "Workflow"
    assert "lose-the-registry: Chaos Mesh has no object for it" in printed.err
