"""Click models: what files say, what is learned, that probabilities are calibrated and served."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tierline.cli import EXIT_DONE, EXIT_FAILED, main
from tierline.wire import ScoreRequest
from tierline_cloud import click_run
from tierline_cloud.click_run import ClickFactory, load_model
from tierline_cloud.data.clicks import (
    Clicks,
    Fields,
    bucket,
    parse_criteo,
    parse_typed,
    read_clicks,
)
from tierline_cloud.data.ingest import DataError
from tierline_cloud.evaluation import calibration_error
from tierline_cloud.models.ctr import ClickConfig, ClickModel
from tierline_cloud.serve.scorer import load_scorer
from tierline_cloud.training.clicks import calibrate, probabilities
from tierline_cloud.training.console import Console
from tierline_edge.embedded import open_scorer
from tierline_serving.bundle import open_bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Trust

HEADER = "label:float\tprice:float\tage:float\tcity:token\tbrand:token"
UNSIGNED = Trust(allow_unsigned=True)


def impressions(rows: int, seed: int = 0) -> str:
    """Clicks that depend on a count, on two tokens and on their pair; some values are missing."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(6, 8))
    lines = [HEADER]
    for _ in range(rows):
        price, city, brand = rng.lognormal(2, 1), int(rng.integers(6)), int(rng.integers(8))
        logit = 1.5 * taste[city, brand] - 0.8 * (np.log1p(price) - 2) - 1
        label = int(rng.random() < 1 / (1 + np.exp(-logit)))
        shown = "" if rng.random() < 0.05 else f"{price:.2f}"
        lines.append(f"{label}\t{shown}\t{rng.normal():.3f}\tcity{city}\tbrand{brand}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    (folder / "clicks.inter").write_text(impressions(4000))
    patch = pytest.MonkeyPatch()
    patch.setattr(click_run, "BUCKETS", 64)
    patch.setattr(click_run, "TRAINING", replace(click_run.TRAINING, batch=256, rate=1e-2))
    try:
        code = main(
            ["train", str(folder / "clicks.inter"), "--kind", "ctr", "--out", str(folder / "out"),
             "--epochs", "8", "--threads", "1", "--model", "clicks", "--registry",
             str(folder / "registry"), "--json", str(folder / "results.json")]
        )  # fmt: skip
    finally:
        patch.undo()
    assert code == EXIT_DONE
    return folder


def test_a_click_model_learns_and_says_how_likely_a_click_is(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    test, constant = results["test"], results["constant"]
    assert test["auc"] > 0.75
    assert test["log_loss"] < 0.9 * constant["log_loss"]
    assert test["ece"] < 0.1  # of 400 impressions: chance alone makes about .06
    assert results["gates"]["largest_difference"] <= 1e-4
    assert results["gates"]["batch_variance"] <= 1e-5


def test_both_tiers_serve_the_probabilities_of_the_model(run: Path) -> None:
    folders = json.loads((run / "results.json").read_text())["bundles"]
    edge = open_scorer(folders["edge"], allow_unsigned=True)
    cloud_bundle = open_bundle(Path(folders["cloud"]), UNSIGNED)
    cloud = load_scorer(cloud_bundle, threads=1, allowed=["tierline_cloud"])
    dense = np.array([[3.0, np.nan], [40.0, 0.5]], np.float32)
    sparse = np.array(
        [[bucket("city", "city1", 64), bucket("brand", "brand2", 64)], [0, 3]], np.int64
    )
    request = ScoreRequest(model="clicks", query={}, candidates={"dense": dense, "sparse": sparse})
    replies = [scorer.score([request])[0] for scorer in (edge, cloud)]
    assert replies[0].scores == pytest.approx(replies[1].scores, abs=1e-5)
    assert all(0 < score < 1 for score in replies[0].scores)
    torch.set_num_threads(1)


def test_both_bundles_are_published(run: Path) -> None:
    folders = json.loads((run / "results.json").read_text())["bundles"]
    registry = Registry(run / "registry")
    assert registry.resolve("clicks", "cloud").name == Path(folders["cloud"]).name


def test_a_second_run_trains_nothing_again(run: Path) -> None:
    said = io.StringIO()
    patch = pytest.MonkeyPatch()
    patch.setattr(click_run, "BUCKETS", 64)
    training = replace(click_run.TRAINING, batch=256, rate=1e-2, epochs=8)
    factory = ClickFactory(run / "clicks.inter", run / "out", Console(said), training)
    model = load_model(factory.trained())
    assert "done before" in said.getvalue()
    shown = probabilities(model, factory.clicks.part(0, 50))
    patch.undo()
    assert np.all((shown > 0) & (shown < 1))


def test_calibration_finds_slope_and_shift_again() -> None:
    torch.manual_seed(1)
    model = ClickModel(ClickConfig(dense=1, sparse=1, buckets=30, dim=2)).eval()
    rng = np.random.default_rng(2)
    dense = rng.normal(size=(20_000, 1)).astype(np.float32)
    sparse = rng.integers(1, 31, size=(20_000, 1))
    with torch.no_grad():
        model.straight.weight *= 2.0  # type: ignore[union-attr]
        logits = model.logits(torch.from_numpy(dense), torch.from_numpy(sparse)).numpy()
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(1.7 * logits - 0.6)))).astype(np.float64)
    fields = Fields(dense=("x",), sparse=("y",))
    seen = Clicks(fields=fields, buckets=30, labels=labels, dense=dense, sparse=sparse)
    slope, shift = calibrate(model, seen)
    assert slope == pytest.approx(1.7, abs=0.15)
    assert shift == pytest.approx(-0.6, abs=0.06)
    assert calibration_error(labels, probabilities(model, seen)) < 0.015


def test_pairwise_products_are_those_of_every_pair() -> None:
    torch.manual_seed(0)
    model = ClickModel(ClickConfig(dense=1, sparse=3, buckets=5, dim=4)).eval()
    dense, sparse = torch.tensor([[2.0]]), torch.tensor([[1, 0, 5]])
    with torch.no_grad():
        level = model.standardised(dense)
        assert model.lift is not None
        assert model.straight is not None
        places = sparse + torch.tensor([0, 6, 12])
        vectors = torch.cat((model.embeddings(places), model.lift(level)[:, None]), dim=1)[0]
        pairs = sum(float(vectors[i] @ vectors[j]) for i in range(4) for j in range(i + 1, 4))
        inner = torch.cat((level, model.embeddings(places).flatten(1)), dim=1)
        rest = model.straight(level) + model.layers(inner)
        assert float(model.logits(dense, sparse)) == pytest.approx(pairs + float(rest), abs=1e-5)


def test_a_missing_number_is_the_mean_and_a_missing_token_has_its_own_id() -> None:
    clicks = parse_typed([HEADER, "1\t\t2\t\tb"], buckets=9)
    assert np.isnan(clicks.dense[0, 0])
    assert clicks.sparse[0, 0] == 0
    model = ClickModel(ClickConfig(dense=2, sparse=2, buckets=9))
    assert model.standardised(torch.from_numpy(clicks.dense))[0, 0] == 0.0


@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.integers(1, 1000))
def test_a_tokens_id_is_in_its_fields_buckets(field: str, token: str, buckets: int) -> None:
    assert 1 <= bucket(field, token, buckets) <= buckets
    assert bucket(field, "", buckets) == 0


def test_criteo_lines_have_thirteen_counts_and_twenty_six_tokens() -> None:
    line = "\t".join(["1", *map(str, range(13)), *(f"t{n}" for n in range(26))])
    empty = "\t".join(["0", *[""] * 39])
    clicks = parse_criteo([line, empty], buckets=100)
    assert clicks.dense.shape == (2, 13)
    assert clicks.sparse.shape == (2, 26)
    assert clicks.labels.tolist() == [1.0, 0.0]
    assert clicks.dense[0].tolist() == list(range(13))
    assert clicks.sparse[0, 1] == bucket("C2", "t1", 100)
    assert not clicks.sparse[1].any()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("label\tprice", "line 1: expected a tab-separated header"),
        ("price:float\tcity:token", "exactly one column label:float"),
        (f"{HEADER}\n1\t2", "line 2: 2 columns, expected 5"),
        (f"{HEADER}\n2\t1\t1\ta\tb", "line 2: the label must be 0 or 1, got '2'"),
        (f"{HEADER}\n1\tx\t1\ta\tb", "line 2: 'x' is not a number"),
        (f"{HEADER}\n1\tinf\t1\ta\tb", "line 2: 'inf' is not a finite number"),
        (HEADER, "no impressions"),
        ("label:float\n1", "no impressions with features"),
    ],
)
def test_a_bad_line_is_named(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "clicks.inter"
    path.write_text(text)
    with pytest.raises(DataError, match=what):
        read_clicks(path, buckets=10)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("label:float\tprice:float\n" + "1\t2\n" * 20, "takes dense and sparse features"),
        (HEADER + "\n" + "1\t2\t3\ta\tb\n" * 20, "needs impressions with and without a click"),
    ],
)
def test_impressions_that_teach_nothing_are_refused(
    text: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clicks.inter"
    path.write_text(text)
    arguments = ["train", str(path), "--kind", "ctr", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--threads", "1"]) == EXIT_FAILED
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"buckets": 0}, {"dense": 0, "sparse": 0}, {"dim": 0}])
def test_impossible_shapes_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        ClickConfig(**{"dense": 1, "sparse": 1, "buckets": 2, **change})
