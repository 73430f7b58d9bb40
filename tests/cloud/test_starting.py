"""Fine-tuning begins where a bundle or checkpoint ended; a split by time lets no future teach."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tierline import ConfigurationError
from tierline.cli import EXIT_FAILED, main
from tierline_cloud.bundles import write_bundles
from tierline_cloud.data import Sequences, generate_shop, split_by
from tierline_cloud.data.ingest import DataError
from tierline_cloud.factory import Factory, Source
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.networks import Networks
from tierline_cloud.recipes import Recipe
from tierline_cloud.training.console import Console
from tierline_cloud.training.starting import fitted, read_weights

SHAPE = SASRecConfig(n_items=10, dim=4, max_history=5)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return SASRec(SHAPE).state_dict()


def test_a_grown_catalogue_keeps_old_rows_and_starts_new_ones(
    weights: dict[str, torch.Tensor],
) -> None:
    torch.manual_seed(1)
    fresh = SASRec(replace(SHAPE, n_items=12, max_history=7)).state_dict()
    start = fitted(weights, fresh)
    assert torch.equal(start["table"][:11], weights["table"])
    assert torch.equal(start["table"][11:], fresh["table"][11:])
    # Positions count from the end: the newest keep their meaning.
    assert torch.equal(start["positions"][2:], weights["positions"])
    assert torch.equal(start["positions"][:2], fresh["positions"][:2])


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (replace(SHAPE, n_items=9), r"table is \[11, 4\], the recipe and data want \[10, 4\]"),
        (replace(SHAPE, dim=8), "do not fit"),
        (replace(SHAPE, blocks=1), "another architecture: missing nothing, unknown"),
    ],
)
def test_weights_of_another_shape_are_refused(
    weights: dict[str, torch.Tensor], shape: SASRecConfig, what: str
) -> None:
    with pytest.raises(ConfigurationError, match=what):
        fitted(weights, SASRec(shape).state_dict())


def test_a_checkpoint_gives_its_best_weights(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    other = {f"model.{name}": value + 1 for name, value in weights.items()}
    best = {f"best.{name}": value for name, value in weights.items()}
    save_file({**other, **best}, tmp_path / "checkpoint.safetensors")
    found = read_weights(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.fixture(scope="module")
def bundles(factory: Factory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from datetime import UTC, datetime

    folder = tmp_path_factory.mktemp("bundles")
    now = datetime(2026, 11, 21, tzinfo=UTC)
    made = write_bundles(factory, model="ranker", destination=folder, signer=None, now=now)
    return {tier: bundle.path for tier, bundle in made.items()}


def test_the_cloud_goes_on_from_its_bundle(
    bundles: dict[str, Path], factory: Factory, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    once = replace(tiny_recipe, cloud_training=replace(tiny_recipe.cloud_training, epochs=1))
    source, silent = Source(path=None), Console(io.StringIO())
    tuned = Networks(source, once, tmp_path, silent, start=bundles["cloud"])
    first = tuned.cloud.result["training"]["history"][0]["loss"]
    from_scratch = factory.cloud.result["training"]["history"]
    assert first < from_scratch[-1]["loss"]
    assert tuned.cloud.key != factory.cloud.key


def test_an_edge_bundle_cannot_be_trained_further(bundles: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="give the cloud's bundle"):
        read_weights(bundles["edge"])


@pytest.fixture
def timed(tiny_recipe: Recipe, tmp_path: Path) -> Path:
    """The tiny shop's events as a CSV, one an hour and user, each user from a day of his own."""
    path = tmp_path / "events.csv"
    lines = ["user,item,timestamp"]
    for user, items in enumerate(generate_shop(tiny_recipe.shop)):
        lines += [f"{user},{item},{user * 3 + place}" for place, item in enumerate(items)]
    path.write_text("\n".join(lines))
    return path


def test_a_split_by_time_runs_through_the_factorys_stages(
    timed: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, split="global-time")
    networks = Networks(Source(path=timed), recipe, tmp_path / "out", Console(io.StringIO()))
    split = networks.split
    assert networks.ingest.result["split"] == "global-time"
    assert len(split.test_target) < len(split.train)
    assert split.train.times is not None
    assert split.test_history.times is not None
    assert split.train.times.max() < np.quantile(
        np.load(networks.ingest.folder / "times.npy"), 0.81
    )
    assert networks.blend.result["test"]["ndcg@10"] >= 0.0
    assert networks.ids.shape == (len(split.test_target), recipe.max_history)
    plain = Networks(Source(path=timed), tiny_recipe, tmp_path / "plain", Console(io.StringIO()))
    assert plain.ingest.key != networks.ingest.key


def test_data_without_times_cannot_be_split_by_time(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, split="global-time")
    networks = Networks(Source(path=None), recipe, tmp_path, Console(io.StringIO()))
    with pytest.raises(DataError, match="needs data with timestamps"):
        _ = networks.ingest
    with pytest.raises(ValueError, match="needs timestamps"):
        split_by("global-time", Sequences.from_lists([[1, 2, 3]], n_items=3))


def test_a_split_that_is_none_is_refused(tiny_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="'by-mood' is none of"):
        split_by("by-mood", Sequences.from_lists([[1, 2, 3]], n_items=3))
    with pytest.raises(ValueError, match="'by-mood' is none of"):
        replace(tiny_recipe, split="by-mood")
    with pytest.raises(ValueError, match="pretrain 'luck' is none of"):
        replace(tiny_recipe, pretrain="luck")


def test_weights_that_are_not_there_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--users", "240", "--items", "200"]
    missing = str(tmp_path / "none.safetensors")
    code = main(["train", "--synthetic", *arguments, "--recipe", "quick", "--from", missing])
    assert code == EXIT_FAILED
    assert "cannot be read" in capsys.readouterr().err
