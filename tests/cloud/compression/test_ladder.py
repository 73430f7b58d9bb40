"""Every rung is made, judged and timed as its recipe says, and slower ones are called size-only."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from tierline import ConfigurationError
from tierline.cli import EXIT_DONE
from tierline_cloud.bundles import write_bundles
from tierline_cloud.cli import COMPRESS
from tierline_cloud.compression import Latency, Rung, is_size_only, measure_latency
from tierline_cloud.compression.latency import SLOWER
from tierline_cloud.factory import Factory
from tierline_cloud.ladder import LADDER_FILE, Ladder, known_ladder
from tierline_cloud.models.two_tower import TwoTower, TwoTowerConfig
from tierline_cloud.recipe_files import find_recipe, read_recipe
from tierline_cloud.recipes import FULL, QUICK, Recipe
from tierline_cloud.tables import ladder_table

RUNGS = (
    Rung(name="whole", table="float32", graph="float32"),
    Rung(name="all-at-once", table="int4", rank=4, prune=0.5),
    Rung(name="shipped"),
    Rung(name="fewer", neighbours=2),
    Rung(name="none", neighbours=0),
)


@pytest.fixture(scope="module")
def report(factory: Factory) -> dict[str, dict[str, object]]:
    rungs = Ladder(factory, RUNGS).report(timed=False)["rungs"]
    json.dumps(rungs)  # plain values
    return {rung["name"]: rung for rung in rungs}


def test_a_rung_that_changes_nothing_keeps_everything(
    report: dict[str, dict[str, object]],
) -> None:
    whole = report["whole"]
    assert whole["own_retention"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert whole["loss_against_float32"] == pytest.approx(0.0, abs=1e-3)
    assert whole["table_times"] == 1.0


def test_combined_means_combine(report: dict[str, dict[str, object]]) -> None:
    rung = report["all-at-once"]
    assert rung["dim"] == 4
    # 32 bytes of float32 a row against 2 of codes and 4 of scale and bias.
    assert rung["table_times"] == pytest.approx(32 / 6)


def test_the_shipped_rung_is_the_edge_that_the_factory_ships(
    factory: Factory, report: dict[str, dict[str, object]]
) -> None:
    shipped = np.load(factory.quantized.folder / "test.top.npy")
    rung = np.load(factory.out / "stages" / "rung-shipped" / "test.top.npy")
    assert np.array_equal(rung, shipped)


def test_neighbours_weigh_what_they_store_and_fewer_weigh_less(
    factory: Factory, report: dict[str, dict[str, object]]
) -> None:
    assert factory.neighbours is not None
    sizes = [report[name]["bytes"] for name in ("shipped", "fewer", "none")]
    whole, fewer, none = (size.get("neighbours", 0) for size in sizes)  # type: ignore[attr-defined]
    assert whole == factory.neighbours.nbytes > fewer > none == 0
    items = factory.split.train.n_items
    assert fewer == items + 1 + 2 * items * 3 + 256 * 4
    times = [report[name]["cloud_times"] for name in ("shipped", "fewer", "none")]
    assert times == sorted(times)  # type: ignore[type-var]


def test_only_a_distilled_network_can_keep_some(factory: Factory) -> None:
    with pytest.raises(ConfigurationError, match="rung a: only a distilled network"):
        Ladder(factory, (Rung(name="a", network="cloud", neighbours=3),)).report(timed=False)


def test_a_rung_that_leaves_them_to_the_recipe_has_the_key_it_had() -> None:
    assert "neighbours" not in Rung(name="a").to_json()
    assert Rung(name="a", neighbours=3).to_json()["neighbours"] == 3


def test_nobody_whose_history_gave_a_range_is_judged(factory: Factory) -> None:
    ladder = Ladder(factory, RUNGS)
    assert not set(ladder.judged) & set(ladder.range_users)
    assert len(ladder.judged) + len(ladder.range_users) == len(factory.split.test_target)


def test_a_rung_is_timed_beside_float32(
    factory: Factory, report: dict[str, dict[str, object]]
) -> None:
    rung = Ladder(factory, RUNGS[2:3]).report()["rungs"][0]
    assert [point["batch"] for point in rung["latency"]] == [1, 8, 64]
    assert all(point["rung"] > 0 and point["control"] > 0 for point in rung["latency"])
    assert rung["size_only"] == any(point["ratio"] > SLOWER for point in rung["latency"])


@pytest.mark.parametrize(
    ("ratios", "expected"), [((0.5, 0.9, 1.04), False), ((0.5, 1.06, 0.5), True)]
)
def test_slower_at_any_batch_is_size_only(ratios: tuple[float, ...], expected: bool) -> None:
    points = [Latency(batch=1, rung=1.0, control=1.0, ratio=ratio) for ratio in ratios]
    assert is_size_only(points) is expected


def test_latency_is_the_median_over_rounds_in_turn() -> None:
    now, order = [0.0], []

    def path(name: str, seconds: float) -> object:
        def run(ids: object) -> None:
            order.append(name)
            now[0] += seconds

        return run

    found = measure_latency(
        path("rung", 2.0),  # type: ignore[arg-type]
        path("control", 8.0),  # type: ignore[arg-type]
        np.zeros((4, 3), np.int64),
        batches=(1,),
        rounds=3,
        clock=lambda: now[0],
    )
    assert found == [Latency(batch=1, rung=2.0, control=8.0, ratio=0.25)]
    assert order[-4:] == ["rung", "control", "rung", "control"]


def test_the_table_names_every_rung(factory: Factory) -> None:
    document = Ladder(factory, RUNGS).report(timed=False)
    document["rungs"][2]["size_only"] = True
    said = ladder_table(document)
    assert "all-at-once" in said
    assert "shipped (size-only)" in said
    assert "ms at" not in said


RECIPE = """
base = "quick"
max_history = 12
escalation = 1

[cloud]
dim = 16

[[compress.rung]]
name = "one"
network = "cloud"
table = "int4"
rank = 8
"""


def test_a_recipe_file_overlays_its_base(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(RECIPE)
    recipe = find_recipe(str(path))
    assert recipe.name == "own"
    assert recipe.cloud == replace(QUICK.cloud, dim=16)
    assert (recipe.max_history, recipe.escalation) == (12, 1.0)
    assert recipe.ladder == (Rung(name="one", network="cloud", table="int4", rank=8),)
    assert recipe.cloud_training == QUICK.cloud_training


def test_a_recipe_without_rungs_keeps_the_default_ladder(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("")
    assert read_recipe(path) == replace(FULL, name="own")
    assert read_recipe(path).ladder == FULL.ladder


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("max_historie = 3", "unknown key 'max_historie'"),
        ("max_history = 'ten'", "max_history must be a whole number, got 'ten'"),
        ("max_history = true", "max_history must be a whole number"),
        ("cloud = 3", r"cloud must be a table \(ModelShape\)"),
        ("[cloud]\nwide = 1", r"\[cloud\]: unknown key 'wide'"),
        ("[cloud_training]\nepochs = 0", "epochs must be at least 1"),
        ("base = 'other'", "base 'other' is none of born-again, full, partial, quick"),
        ("[compress]\nladder = 3", r"\[compress\] holds"),
        ("[[compress.rung]]\nname = 'a'\ntable = 'int2'", "table 'int2' is none of"),
        ("[[compress.rung]]\ntable = 'int8'", "rung 1: .*name"),
        ("[[compress.rung]]\nname = 'a'\nsize = 1", "rung 1: its keys are among"),
        ("[[compress.rung]]\nname = 'a'\n[[compress.rung]]\nname = 'a'", "two rungs"),
        ("[[compress.rung]]\nname = '../a'", "a rung's name is letters"),
        ("x = [", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=what):
        read_recipe(path)


def test_a_name_that_is_no_recipe_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no recipe 'big': give one of born-again, full, partial, quick"
    ):
        find_recipe("big")


def test_a_ladder_goes_into_the_bundle_of_the_networks_it_is_of(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "out", tmp_path)
    assert known_ladder(factory) is None
    document = Ladder(factory, ()).report()
    (tmp_path / LADDER_FILE).write_text(json.dumps(document))
    assert known_ladder(factory) == document
    now = datetime(2026, 11, 21, tzinfo=UTC)
    made = write_bundles(factory, model="m", destination=tmp_path, signer=None, now=now)
    assert made["edge"].manifest.metrics["ladder"] == document
    (tmp_path / LADDER_FILE).write_text(json.dumps({**document, "of": "others"}))
    assert known_ladder(factory) is None


def test_a_two_tower_has_no_inner_units_to_prune(factory: Factory, tiny_recipe: Recipe) -> None:
    rung = Rung(name="pruned", prune=0.5)
    ladder = Ladder(factory, (rung,))
    shape = TwoTowerConfig(n_items=160, dim=8, max_history=12)
    with (
        patch.object(factory, "network", lambda stage: TwoTower(shape)),
        pytest.raises(ConfigurationError, match="only a SASRec has units to prune"),
    ):
        ladder.report(timed=False)


def test_the_command_finds_the_run_again_and_reports_its_ladder(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierline_cloud.run._factory", lambda options, console, world: factory)
    monkeypatch.setattr(factory, "recipe", replace(factory.recipe, ladder=RUNGS[2:3]))
    parser = argparse.ArgumentParser()
    COMPRESS.configure(parser)
    target = tmp_path / "ladder.json"
    arguments = ["--synthetic", "--out", str(factory.out), "--no-latency", "--json", str(target)]
    assert COMPRESS.run(parser.parse_args(arguments)) == EXIT_DONE
    assert [rung["name"] for rung in json.loads(target.read_text())["rungs"]] == ["shipped"]
    (factory.out / LADDER_FILE).unlink()
