"""SASRec served with its neighbours: a product of experts, for candidates and whole catalogue."""

from __future__ import annotations

from pathlib import Path

import cloud_bundles
import numpy as np
import pytest
import torch
from cloud_bundles import CONFIG, ITEMS
from safetensors.torch import save

from tierline import BundleRefused
from tierline.wire import ScoreRequest
from tierline_cloud.data import Sequences
from tierline_cloud.models.baselines import ItemKnn
from tierline_cloud.models.blend import FLOOR, Neighbours
from tierline_cloud.serve.scorer import load_scorer
from tierline_serving.bundle import Bundle

WEIGHT = 1.5
RUNTIME = {
    "engine": "torch",
    "entry": "model.safetensors",
    "architecture": "sasrec-knn",
    "config": {**CONFIG.to_json(), "neighbour_weight": WEIGHT},
}


def neighbours() -> Neighbours:
    dice = np.random.default_rng(5)
    lengths = dice.integers(3, 9, 50)
    shop = Sequences(
        items=dice.integers(1, ITEMS + 1, lengths.sum()),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        n_items=ITEMS,
    )
    return Neighbours(knn=ItemKnn.fit(shop), weight=WEIGHT)


def write(folder: Path, **tensors: torch.Tensor) -> Bundle:
    weights = cloud_bundles.sasrec().state_dict() | neighbours().tensors() | tensors
    return cloud_bundles.write_sasrec(folder, save(weights), runtime=RUNTIME)


def ask(history: list[int], **wanted: object) -> ScoreRequest:
    query = {"history": np.array(history, np.int64)}
    return ScoreRequest(model="ranker", query=query, **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("history", [[], [7], [3, 3, 9, 41, 12, 8, 60, 2, 5, 1]])
def test_the_neighbours_share_is_added_to_the_networks_score(
    tmp_path: Path, history: list[int]
) -> None:
    scorer = load_scorer(write(tmp_path / "blend"), threads=1)
    plain = load_scorer(cloud_bundles.write_sasrec(tmp_path / "plain"), threads=1)
    everything = {"id": np.arange(1, ITEMS + 1)}
    (blended,) = scorer.score([ask(history, candidates=everything)])
    (network,) = plain.score([ask(history, candidates=everything)])
    near = neighbours().knn.scores_of(np.array(history, np.int64))[1:]
    share = near / near.sum() if near.sum() else near
    expected = network.scores + WEIGHT * np.log(share + FLOOR)
    np.testing.assert_allclose(blended.scores, expected, rtol=1e-5, atol=1e-4)


def test_recommend_ranks_as_the_candidates_do(tmp_path: Path) -> None:
    scorer = load_scorer(write(tmp_path), threads=1)
    (best,) = scorer.score([ask([7, 9], k=5)])
    assert best.items is not None
    (same,) = scorer.score([ask([7, 9], candidates={"id": best.items})])
    np.testing.assert_allclose(best.scores, same.scores, rtol=1e-5)
    assert np.all(np.diff(same.scores) <= 0)


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("knn.starts", torch.zeros(3, dtype=torch.int64), "expected 62 of int64"),
        ("knn.starts", torch.zeros(ITEMS + 2, dtype=torch.int64), "points outside"),
        ("knn.neighbours", torch.zeros(2, dtype=torch.int32), "of int32 among the neighbours"),
        ("knn.weights", torch.zeros(2), "of int32 among the neighbours"),
    ],
)
def test_neighbours_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, wrong: torch.Tensor, sentence: str
) -> None:
    with pytest.raises(BundleRefused, match=sentence):
        load_scorer(write(tmp_path, **{name: wrong}), threads=1)


def test_neighbours_that_name_items_beyond_the_catalogue_are_refused(tmp_path: Path) -> None:
    far = torch.full_like(neighbours().tensors()["knn.neighbours"], ITEMS + 1)
    with pytest.raises(BundleRefused, match="points outside"):
        load_scorer(write(tmp_path, **{"knn.neighbours": far}), threads=1)


@pytest.mark.parametrize("weight", [None, -1.0, "1"])
def test_a_weight_that_is_no_weight_is_refused(tmp_path: Path, weight: object) -> None:
    runtime = {**RUNTIME, "config": {**CONFIG.to_json(), "neighbour_weight": weight}}
    bundle = cloud_bundles.write_sasrec(tmp_path, runtime=runtime)
    with pytest.raises(BundleRefused, match="neighbour_weight must be zero or more"):
        load_scorer(bundle, threads=1)


def test_missing_neighbours_are_refused(tmp_path: Path) -> None:
    bundle = cloud_bundles.write_sasrec(tmp_path, runtime=RUNTIME)
    with pytest.raises(BundleRefused, match=r"the neighbours lack 'knn\.starts'"):
        load_scorer(bundle, threads=1)
