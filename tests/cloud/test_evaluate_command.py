"""`tierline evaluate` on the tiny pair: one page, honest about whom it judges, and its pictures."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tierline.cli import EXIT_DONE, EXIT_FAILED, main
from tierline_cloud.bundles import write_bundles
from tierline_cloud.factory import Factory
from tierline_cloud.temperatures import temperatures
from tierline_serving.bundle import Bundle
from tierline_serving.certified import chances_of

PRICES = 'currency = "EUR"\nedge_call = 1e-6\ncloud_call = 2e-5\n'


@pytest.fixture(scope="module")
def pair(factory: Factory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    now = datetime(2026, 11, 21, 8, tzinfo=UTC)
    folder = tmp_path_factory.mktemp("pair")
    return write_bundles(factory, model="ranker", destination=folder, signer=None, now=now)


@pytest.fixture(scope="module")
def evaluated(
    factory: Factory, pair: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What one run of the command wrote as JSON, with its prices and plots."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "prices.toml").write_text(PRICES)
    data = str(factory.out / "synthetic.txt")
    options = ["--allow-unsigned", "--threads", "1", "--json", str(folder / "page.json")]
    options += ["--prices", str(folder / "prices.toml"), "--plots", str(folder / "plots")]
    edge, cloud = str(pair["edge"].path), str(pair["cloud"].path)
    assert main(["evaluate", edge, cloud, data, *options]) == EXIT_DONE
    document: dict[str, Any] = json.loads((folder / "page.json").read_text("utf-8"))
    return document


def test_only_users_nobody_learned_from_are_judged(
    factory: Factory, evaluated: dict[str, Any]
) -> None:
    assert evaluated["users"] == factory.groups.report.size
    assert evaluated["who"] == "nothing was fitted on them"
    judged = factory.evaluated.result["tiers"]
    for row, known in zip(evaluated["tiers"], judged, strict=True):
        assert row["metrics"] == pytest.approx(known["metrics"])


def test_every_way_of_serving_has_its_interval_and_its_price(evaluated: dict[str, Any]) -> None:
    edge, tiered, cloud = evaluated["tiers"]
    for row in (edge, tiered, cloud):
        interval = row["ndcg@10"]
        assert interval["low"] <= interval["mean"] <= interval["high"]
        assert interval["mean"] == pytest.approx(row["metrics"]["ndcg@10"])
    assert edge["per_thousand"] == pytest.approx(0.001)
    assert tiered["per_thousand"] == pytest.approx(0.001 + 0.02 * tiered["escalation"])
    assert cloud["per_thousand"] == pytest.approx(0.02)
    assert cloud["retention"]["mean"] == 1.0


def test_the_gates_stand_beside_chance_and_an_oracle(evaluated: dict[str, Any]) -> None:
    names = [gate["name"] for gate in evaluated["gates"]]
    assert names[0] == "uncertainty head"
    assert {"margin at 10", "random", "oracle"} <= set(names)
    at = evaluated["gate"]["escalation_at_retention"]
    assert at["0.95"] <= at["0.99"] <= at["0.995"]
    gaps = evaluated["escalation_at_gap"]
    assert gaps["0.5"] <= gaps["0.8"] <= gaps["0.95"]


def test_temperatures_are_those_the_bundles_carry_and_nodes_tell(
    factory: Factory, pair: dict[str, Bundle], evaluated: dict[str, Any]
) -> None:
    made = temperatures(factory).result
    for tier, bundle in pair.items():
        told = chances_of(bundle.manifest)
        assert told == {name: made[tier][name] for name in ("temperature", "floor")}
        found = evaluated["temperature"][tier]
        assert found["source"] == "its bundle"
        assert found["after"]["temperature"] == made[tier]["temperature"]
        assert made[tier]["after"]["users"] == factory.groups.report.size


def test_the_pictures_are_pictures(evaluated: dict[str, Any]) -> None:
    paths = [Path(name) for name in evaluated["plots"]]
    assert {path.stem for path in paths} == {"risk-coverage", "cost", "reliability"}
    for path in paths:
        head = path.read_bytes()[:200]
        assert (
            head.startswith(b"\x89PNG")
            if path.suffix == ".png"
            else b"<svg" in head or b"<?xml" in head
        )


def test_a_missing_price_file_is_one_sentence(
    factory: Factory, pair: dict[str, Bundle], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edge, cloud = str(pair["edge"].path), str(pair["cloud"].path)
    data = str(factory.out / "synthetic.txt")
    options = ["--allow-unsigned", "--threads", "1", "--prices", str(tmp_path / "none.toml")]
    assert main(["evaluate", edge, cloud, data, *options]) == EXIT_FAILED
    assert "there is no file" in capsys.readouterr().err
