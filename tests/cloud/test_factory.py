"""The whole factory on a tiny shop: two bundles that open, a second run that does nothing again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any  # a recipe's values

import numpy as np
import pytest
import torch

from tierline import BundleRefused
from tierline.cli import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, main
from tierline_cloud.bundles import write_bundles
from tierline_cloud.data import Sequences, pad_left
from tierline_cloud.export import EdgeSession
from tierline_cloud.factory import Factory, Source
from tierline_cloud.loading import load_cloud
from tierline_cloud.networks import DISTILLATION_DROPOUT
from tierline_cloud.publishing import CHANNELS
from tierline_cloud.recipes import BORN_AGAIN, QUICK, Recipe
from tierline_cloud.serve.scorer import load_scorer
from tierline_cloud.stages import content_key
from tierline_cloud.training.console import Console
from tierline_cloud.training.starting import read_weights
from tierline_kernels import RowwiseInt8, dequantize_rows
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Signer, Trust

UNSIGNED = Trust(allow_unsigned=True)
TINY = ("--users", "240", "--items", "200", "--epochs", "1", "--recipe", "quick", "--threads", "1")


def _train(out: Path, *more: str) -> int:
    return main(["train", "--synthetic", "--out", str(out), *TINY, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One signed and published run of the command."""
    folder = tmp_path_factory.mktemp("run")
    Signer.generate().save(folder / "private.pem", folder / "public.pem")
    more = ["--key", str(folder / "private.pem"), "--registry", str(folder / "registry")]
    assert _train(folder / "out", *more, "--json", str(folder / "results.json")) == EXIT_DONE
    return folder


def _bundles(run: Path) -> dict[str, Bundle]:
    trust = Trust.from_files([run / "public.pem"])
    folders = json.loads((run / "results.json").read_text())["bundles"]
    return {tier: open_bundle(folder, trust) for tier, folder in folders.items()}


def test_training_yields_two_signed_bundles_that_open(run: Path) -> None:
    bundles = _bundles(run)
    edge, cloud = bundles["edge"].manifest, bundles["cloud"].manifest
    assert (edge.tier, edge.runtime.engine, edge.runtime.precision) == (
        "edge",
        "onnx",
        "int8-static",
    )
    assert (cloud.tier, cloud.runtime.engine, cloud.runtime.architecture) == (
        "cloud",
        "torch",
        "sasrec-knn",
    )
    assert bundles["edge"].signed_by is not None
    assert edge.uncertainty is not None
    assert edge.uncertainty.threshold is not None
    assert 0 < edge.uncertainty.threshold < 1
    for bundle in bundles.values():
        prior = bundle.prior()
        assert prior is not None
        assert np.isneginf(prior[0])


def test_both_bundles_are_published_to_their_tiers_channels(run: Path) -> None:
    registry = Registry(run / "registry")
    for tier, bundle in _bundles(run).items():
        assert registry.resolve("ranker", CHANNELS[tier]).name == bundle.path.name


def test_the_cloud_bundles_golden_replies_are_the_models(run: Path) -> None:
    bundle = _bundles(run)["cloud"]
    model = load_cloud(bundle)
    length = model.network.config.max_history
    pairs = bundle.golden()
    assert any(request.query["history"].size == 0 for request, _ in pairs)
    for request, reply in pairs:
        history = request.query["history"].astype(np.int64)
        asker = Sequences(items=history, offsets=np.array([0, history.size]), n_items=200)
        ids = pad_left(asker, length)
        asked = reply.items if request.candidates is None else request.candidates["id"]
        assert asked is not None
        assert not set(reply.items.tolist() if reply.items is not None else []) & {0, *history}
        with torch.inference_mode():
            hidden = model.network.hidden(torch.from_numpy(ids)).numpy()[0]
        boost = model.boost(history)
        assert boost is not None
        scores = model.table[asked.astype(int)] @ hidden + boost[asked.astype(int)]
        assert reply.scores == pytest.approx(scores, abs=1e-4)


def test_the_edge_bundles_golden_replies_are_the_int8_graphs(run: Path) -> None:
    bundle = _bundles(run)["edge"]
    codes = bundle.table("items")
    assert codes.codes is not None
    assert codes.scales is not None
    rows = dequantize_rows(RowwiseInt8(codes.codes, codes.scales, codes.biases))
    session = EdgeSession(bundle.model_bytes(), rows, threads=1)
    golden, near = bundle.manifest.golden, bundle.neighbours()
    assert golden is not None
    assert near is not None
    for request, reply in bundle.golden():
        history = request.query["history"].astype(np.int64)[-50:]
        ids = np.zeros((1, 50), np.int64)
        ids[0, 50 - history.size :] = history
        outputs = session.run(ids)
        asked = reply.items if request.candidates is None else request.candidates["id"]
        assert asked is not None
        # A recommendation meets an int8 query, so its scores are only near the float products.
        allowed = golden.tolerance * max(1.0, float(np.abs(reply.scores).max()))
        products = rows[asked.astype(int)] @ outputs.hidden[0]
        gains = near.boosts([request.query["history"]]).at(0, asked)
        assert reply.scores == pytest.approx(products + gains, abs=allowed)
        assert reply.uncertainty == pytest.approx(float(outputs.uncertainty[0]), abs=1e-6)


def test_a_second_run_keeps_every_stage_and_both_bundles(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _bundles(run)
    again = run / "again.json"
    assert _train(run / "out", "--key", str(run / "private.pem"), "--json", str(again)) == 0
    assert "done in" not in capsys.readouterr().err
    assert json.loads(again.read_text())["bundles"]["edge"] == str(before["edge"].path)


def test_evaluate_prints_the_three_ways_of_serving(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = _bundles(run)
    folders = [str(bundles["edge"].path), str(bundles["cloud"].path)]
    data = str(run / "out" / "synthetic.txt")
    target = run / "evaluated.json"
    code = main(
        ["evaluate", *folders, data, "--key", str(run / "public.pem"), "--json", str(target)]
    )
    assert code == EXIT_DONE
    said = capsys.readouterr().out
    assert all(name in said for name in ("edge only", "tiered", "cloud only", "NDCG@10", "HR@10"))
    rows = json.loads(target.read_text())["tiers"]
    assert [row["escalation"] for row in rows][::2] == [0.0, 1.0]
    assert rows[2]["agreement_loss"] == 0.0


def test_evaluate_refuses_bundles_of_the_wrong_tier(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = _bundles(run)
    folders = [str(bundles["cloud"].path), str(bundles["edge"].path)]
    data = str(run / "out" / "synthetic.txt")
    assert main(["evaluate", *folders, data, "--key", str(run / "public.pem")]) == EXIT_REFUSED
    assert "expected the edge bundle" in capsys.readouterr().err


def test_damaged_cloud_weights_are_refused(run: Path, tmp_path: Path) -> None:
    bundle = _bundles(run)["cloud"]
    manifest = bundle.manifest
    assert manifest.runtime.config is not None
    config = {**manifest.runtime.config, "dim": 8}
    other = replace(manifest, runtime=replace(manifest.runtime, config=config))
    with pytest.raises(BundleRefused, match="does not load"):
        load_cloud(replace(bundle, manifest=other))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--out", "{out}"], "either DATA or --synthetic"),
        (["{out}/none.txt", "--out", "{out}"], "is no file"),
        (["--synthetic", "--out", "{out}", "--users", "3"], "at least 10 users"),
        (["--synthetic", "--out", "{out}", "--threads", "0"], "--threads"),
    ],
)
def test_wrong_options_end_in_one_sentence(
    arguments: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(out=tmp_path) for argument in arguments]
    assert main(["train", *filled]) == EXIT_FAILED
    error = capsys.readouterr().err
    assert what in error
    assert "Traceback" not in error


def test_an_edge_without_neighbours_is_made_as_before_there_were_any(
    factory: Factory, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    said, bare = io.StringIO(), replace(tiny_recipe, neighbours=0.0)
    again = Factory(Source(path=None), bare, tmp_path, Console(said))
    assert "neighbours" not in again.report()
    assert "neighbours: done" not in said.getvalue()
    assert again.edge is not None
    key = content_key(
        "distil",
        {
            "shape": again.shape(replace(bare.edge, dropout=DISTILLATION_DROPOUT)).to_json(),
            "training": bare.distillation.to_json(),
        },
        [again.blend.key, again.edge.key],
    )
    assert again.distilled.key == key
    # What comes before is the same; what comes after the neighbours is not.
    assert (again.blend.key, again.edge.key) == (factory.blend.key, factory.begin.key)
    assert again.distilled.key != factory.distilled.key
    made = write_bundles(
        again, model="ranker", destination=tmp_path / "bundles", signer=None,
        now=datetime(2026, 11, 21, tzinfo=UTC),
    )  # fmt: skip
    assert made["edge"].neighbours() is None


def test_the_bundle_carries_the_neighbours_that_everything_was_judged_with(
    factory: Factory, tmp_path: Path
) -> None:
    made = write_bundles(
        factory, model="ranker", destination=tmp_path, signer=None,
        now=datetime(2026, 11, 21, tzinfo=UTC),
    )  # fmt: skip
    packed, ours = made["edge"].neighbours(), factory.neighbours
    assert packed is not None
    assert ours is not None
    histories = list(factory.split.test_history)
    for mine, theirs in zip(packed.boosts(histories), ours.boosts(histories), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    length = factory.recipe.max_history
    session = EdgeSession(made["edge"].model_bytes(), factory.rows, threads=1)
    for request, reply in made["edge"].golden():
        history = request.query["history"].astype(np.int64)
        ids = np.zeros((1, length), np.int64)
        ids[0, length - min(history.size, length) :] = history[-length:]
        asked = reply.items if request.candidates is None else request.candidates["id"]
        assert asked is not None
        scores = factory.rows[asked] @ session.run(ids).hidden[0] + packed.boosts([history]).at(
            0, asked
        )
        allowed = 2e-2 * max(1.0, float(np.abs(reply.scores).max()))
        assert reply.scores == pytest.approx(scores, abs=allowed)
    fitted = factory.report()["neighbours"]["fitted"]
    assert fitted["loss"] < fitted["loss_without"]


def test_only_what_changed_is_made_again(
    factory: Factory, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    said = io.StringIO()
    changed = replace(tiny_recipe, escalation=0.4)
    again = Factory(Source(path=None), changed, factory.out, Console(said))
    result = again.report()
    made = [line.split(":")[0] for line in said.getvalue().splitlines() if "done in" in line]
    assert made == ["calibrate", "evaluate"]
    # Calibrated on 32 users, judged on 80: a standard deviation of 0.10, of which 2.5 are allowed.
    assert result["evaluate"]["tiers"][1]["escalation"] == pytest.approx(0.4, abs=0.25)


def test_tiered_agreement_lies_between_the_tiers(factory: Factory) -> None:
    edge, tiered, cloud = factory.evaluated.result["tiers"]
    assert edge["agreement_loss"] > tiered["agreement_loss"] > cloud["agreement_loss"] == 0.0


def test_the_report_is_about_users_nobody_learned_from(factory: Factory) -> None:
    groups = factory.groups
    judged = set(groups.report.tolist())
    assert not judged & set(groups.router.tolist())
    assert not judged & set(groups.calibration.tolist())
    assert factory.evaluated.result["users"] == len(judged)


def test_the_edge_is_asked_with_left_padded_test_histories(factory: Factory) -> None:
    expected = pad_left(factory.split.test_history, factory.recipe.max_history)
    assert np.array_equal(factory.ids, expected)


@pytest.mark.parametrize("recipe", [QUICK, BORN_AGAIN])
def test_a_time_budget_leaves_room_for_the_rest(recipe: Recipe) -> None:
    bounded = recipe.within(10.0)
    minutes = sum(training.minutes or 0.0 for training in bounded.trainings.values())
    assert 8.0 < minutes < 10.0


@pytest.mark.parametrize("recipe", [QUICK, BORN_AGAIN])
@pytest.mark.parametrize("change", [lambda r: r.seeded(5), lambda r: r.at_most(2)])
def test_seeds_and_epochs_reach_every_training(
    change: Callable[[Recipe], Recipe], recipe: Recipe
) -> None:
    changed = change(recipe).trainings
    assert len(changed) == 3
    for name, before in recipe.trainings.items():
        after = changed[name]
        assert (before.seed, before.epochs) != (after.seed, after.epochs)


def test_a_cloud_of_two_networks_is_packed_and_its_edge_begins_as_the_second(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    shape = replace(tiny_recipe.cloud, positions="relative")
    recipe = replace(
        tiny_recipe, again=shape, again_training=tiny_recipe.distillation, edge=shape,
        edge_training=None, lesson="every-event", neighbours=0.0,
    )  # fmt: skip
    factory = Factory(Source(path=None), recipe, tmp_path, Console(io.StringIO()))
    results = factory.report()
    assert "edge" not in results
    assert sum(results["ensemble"]["shares"]) == 1.0
    made = write_bundles(
        factory, model="ranker", destination=tmp_path / "bundles", signer=None,
        now=datetime(2026, 11, 21, tzinfo=UTC),
    )  # fmt: skip
    assert made["cloud"].manifest.runtime.architecture == "ensemble-knn"
    scorer = load_scorer(made["cloud"], threads=1)
    for request, expected in made["cloud"].golden():
        (reply,) = scorer.score([request])
        np.testing.assert_allclose(reply.scores, expected.scores, rtol=1e-4, atol=1e-4)
    start = read_weights(made["cloud"].path)
    assert torch.equal(start["table"], factory.cloud_network.table.detach())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"neighbours": 41.0}, "neighbours must be from 0 to 40, got 41"),
        ({"neighbours": 5.0}, "an edge with neighbours is taught beginnings, not every-event"),
        ({"lesson": "none"}, "is none of beginnings, every-event"),
        ({"again": None}, "again and again_training go together"),
        ({"edge": replace(BORN_AGAIN.edge, dim=32)}, "the edge must have the shape of again"),
        ({"again": replace(BORN_AGAIN.edge, architecture="two-tower")}, "is a sasrec too"),
    ],
)
def test_a_recipe_whose_parts_do_not_go_together_is_refused(
    change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(BORN_AGAIN, **change)
