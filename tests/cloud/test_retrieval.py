"""Two towers and factorisation retrieve what fits, start the cloud's rows, and serve as an edge."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tierline_cloud.data import Sequences, ShopConfig, Split, generate_shop, leave_one_out
from tierline_cloud.evaluation import factor_scores, rank_catalogue, ranking_metrics
from tierline_cloud.export import torch_outputs
from tierline_cloud.factory import Factory, Source
from tierline_cloud.models.edge import EdgeModel
from tierline_cloud.models.factorisation import CONFIDENCE, REGULARISATION, Factors, _solve
from tierline_cloud.models.network import build, make_shape, with_rows
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.models.two_tower import TwoTower, TwoTowerConfig
from tierline_cloud.networks import Networks
from tierline_cloud.recipes import QUICK, Recipe
from tierline_cloud.training.console import Console

SHOP = ShopConfig(users=300, items=120, clusters=6, styles=2)


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(generate_shop(SHOP))


def _ndcg(split: Split, states: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
          rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:  # fmt: skip
    scores = factor_scores(states, rows)
    ranking = rank_catalogue(scores, split.test_history, split.test_target)
    return ranking_metrics(ranking.ranks)["ndcg@10"]


def test_factors_retrieve_better_than_chance_and_the_seed_fixes_them(split: Split) -> None:
    factors = Factors.fit(split.train, 16, seed=3)
    assert not factors.items[0].any()
    assert np.array_equal(factors.items, Factors.fit(split.train, 16, seed=3).items)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=factors.items.shape).astype(np.float32)
    states = factors.users(split.test_history)
    assert _ndcg(split, states, factors.items) > 2 * _ndcg(split, states, noise)


def test_a_users_factors_are_the_least_squares_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    items = rng.normal(size=(6, 3))
    had = np.array([1, 4])
    certain = np.ones(6)
    certain[had] += CONFIDENCE
    wanted = np.linalg.solve(
        items.T @ (certain[:, None] * items) + REGULARISATION * np.eye(3),
        items.T @ (certain * np.isin(np.arange(6), had)),
    )
    found = _solve(torch.from_numpy(items.astype(np.float32)), had, np.array([0, 2, 2]))
    assert found[0].numpy() == pytest.approx(wanted, abs=1e-4)
    assert not found[1].any()


def test_a_users_state_is_the_weighted_mean_whatever_the_padding() -> None:
    torch.manual_seed(0)
    tower = TwoTower(TwoTowerConfig(n_items=9, dim=4, layers=0, max_history=5, dropout=0.0)).eval()
    with torch.no_grad():
        weights = np.exp(tower.ages.numpy())
        rows = tower.table.numpy()
        mean = (weights[0] * rows[7] + weights[1] * rows[2]) / (weights[0] + weights[1])
        wanted = tower.last_norm(torch.from_numpy(mean)[None])
        for ids in ([[2, 7]], [[0, 0, 0, 2, 7]]):
            found = tower.hidden(torch.tensor(ids))
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_every_state_in_training_is_the_state_asked_then() -> None:
    torch.manual_seed(1)
    tower = TwoTower(TwoTowerConfig(n_items=9, dim=4, layers=2, max_history=5, dropout=0.3)).eval()
    ids = torch.tensor([[0, 3, 1, 8], [5, 2, 2, 9]])
    with torch.no_grad():
        states = tower.all_states(ids)
        for place in range(1, 4):
            asked = tower.hidden(ids[:, : place + 1])
            torch.testing.assert_close(states[:, place], asked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{"dim": 0}, {"layers": -1}, {"dropout": 1.0}])
def test_impossible_towers_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TwoTowerConfig(n_items=3, **change)  # type: ignore[arg-type]


def test_rows_to_begin_with_have_the_length_the_network_expects(split: Split) -> None:
    torch.manual_seed(0)
    network = SASRec(SASRecConfig(n_items=split.train.n_items, dim=8, max_history=6))
    rows = torch.randn(split.train.n_items + 1, 8) * 40
    weights = with_rows(network, rows)
    assert not weights["table"][0].any()
    fresh = network.table.detach()
    torch.testing.assert_close(weights["table"][1:].std(), fresh[1:].std())
    with pytest.raises(ValueError, match="expected rows"):
        with_rows(network, rows[1:])


def test_an_architecture_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'bert' is none of"):
        make_shape("bert")
    with pytest.raises(ValueError, match="'bert' is none of"):
        replace(QUICK.edge, architecture="bert")
    with pytest.raises(ValueError, match="two-tower is for the edge"):
        replace(QUICK, cloud=replace(QUICK.cloud, architecture="two-tower"))


@pytest.mark.parametrize("kind", ["mf", "two-tower"])
def test_the_cloud_begins_with_pretrained_rows_and_learns_faster(
    kind: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    def first_loss(recipe: Recipe, folder: Path) -> tuple[float, Networks]:
        networks = Networks(Source(path=None), recipe, folder, Console(io.StringIO()))
        history = networks.cloud.result["training"]["history"]
        return history[0]["loss"], networks

    quick = replace(tiny_recipe, cloud_training=replace(tiny_recipe.cloud_training, epochs=1))
    plain, _ = first_loss(quick, tmp_path / "plain")
    begun, networks = first_loss(replace(quick, pretrain=kind), tmp_path / kind)
    assert begun < plain
    assert networks.pretrained is not None
    assert networks.pretrained.result["test"]["ndcg@10"] > 0


def test_a_two_tower_edge_answers_inside_the_edges_graph(tiny_recipe: Recipe) -> None:
    torch.manual_seed(0)
    shape = make_shape("two-tower", n_items=30, dim=8, blocks=1, max_history=6, dropout=0.1)
    tower = build(shape)
    edge = EdgeModel(tower).eval()
    ids = np.random.default_rng(0).integers(0, 31, (5, 6))
    ids[:, -1] += 1 - np.minimum(ids[:, -1], 1)
    rows = tower.table.detach().numpy()
    said = torch_outputs(edge, ids, rows)
    with torch.no_grad():
        assert said.hidden == pytest.approx(tower.eval().hidden(torch.from_numpy(ids)).numpy())
    assert np.isfinite(said.uncertainty).all()


@pytest.mark.nightly
def test_the_factory_ships_a_two_tower_edge(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, edge=replace(tiny_recipe.edge, architecture="two-tower"))
    factory = Factory(Source(path=None), recipe, tmp_path, Console(io.StringIO()))
    assert factory.report()["export"]["parity"]["same_top10"] == 1.0


def test_users_without_a_history_have_no_factors() -> None:
    train = Sequences.from_lists([[1, 2], [], [3]], n_items=4)
    users = Factors.fit(train, 2, sweeps=1).users(train)
    assert not users[1].any()
    assert users[0].any()
