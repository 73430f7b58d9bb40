"""Several networks served as one: the sum of their scores, chosen on the validation slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tierline_cloud.blending import mixtures
from tierline_cloud.data import Split
from tierline_cloud.evaluation import rank_catalogue, ranking_metrics
from tierline_cloud.models.baselines import ItemKnn
from tierline_cloud.models.blend import CloudModel, Neighbours, blended
from tierline_cloud.models.ensemble import Ensemble, EnsembleConfig
from tierline_cloud.models.left_out import LeftOut
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.training.loop import hidden_states

SHAPE = SASRecConfig(n_items=160, dim=8, blocks=2, heads=2, max_history=12, dropout=0.0)
RELATIVE = replace(SHAPE, positions="relative", dim=4)
SHARES = (0.25, 0.75)


def members() -> list[SASRec]:
    torch.manual_seed(1)
    return [SASRec(SHAPE).eval(), SASRec(RELATIVE).eval()]


def ensemble() -> Ensemble:
    return Ensemble(EnsembleConfig(members=(SHAPE, RELATIVE), shares=SHARES), members()).eval()


def test_its_scores_are_the_weighted_sum_of_its_members() -> None:
    both = ensemble()
    ids = torch.tensor([[0, 0, 3, 7], [1, 2, 3, 4]])
    expected = sum(
        share * network.hidden(ids) @ network.table.T
        for share, network in zip(SHARES, members(), strict=True)
    )
    torch.testing.assert_close(both.hidden(ids) @ both.table.T, expected)
    torch.testing.assert_close(both.all_states(ids)[:, -1], both.hidden(ids))


def test_a_bundle_gives_back_the_same_ensemble() -> None:
    both = ensemble()
    neighbours = Neighbours(
        knn=ItemKnn(
            starts=np.zeros(162, np.int64),
            neighbours=np.zeros(0, np.int64),
            weights=np.zeros(0, np.float32),
            n_items=160,
        ),
        weight=1.0,
    )
    config = {**both.config.to_json(), "neighbour_weight": 1.0}
    tensors = {**both.state_dict(), **neighbours.tensors()}
    found = CloudModel.from_bundle("ensemble-knn", config, tensors)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(found.network.hidden(ids), both.hidden(ids), rtol=0, atol=0)
    assert found.network.config == both.config


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"members": [], "shares": []}, "0 members"),
        ({"members": [SHAPE.to_json()], "shares": [0.0]}, "shares must be positive"),
        ({"members": [SHAPE.to_json()]}, "an ensemble has members and shares"),
        (
            {"members": [SHAPE.to_json(), {"n_items": 2}], "shares": [1, 1]},
            "catalogues of different size",
        ),
    ],
)
def test_what_is_no_ensemble_is_refused(config: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CloudModel.from_bundle("ensemble-knn", {**config, "neighbour_weight": 1.0}, {})


def test_every_mixture_is_scored_as_the_served_blend_would_be(shop_split: Split) -> None:
    networks, knn = members(), ItemKnn.fit(shop_split.train)
    histories, targets = shop_split.valid_history, shop_split.valid_target
    found = mixtures(networks, Neighbours(knn=knn, weight=1.0), histories, targets)
    assert len({(*each.shares, each.weight) for each in found}) == len(found) == 12
    tried = next(each for each in found if each.shares == SHARES and each.weight == 1.5)
    both = ensemble()
    scores = blended(
        hidden_states(both, histories),
        both.table.detach().numpy(),
        histories,
        Neighbours(knn=knn, weight=1.5),
    )
    expected = ranking_metrics(rank_catalogue(scores, histories, targets).ranks)["ndcg@10"]
    assert tried.score == pytest.approx(expected, rel=1e-3)


def test_a_users_own_pairs_are_taken_out_of_the_counts(shop_split: Split) -> None:
    train = shop_split.train
    knn = ItemKnn.fit(train)
    user = int(np.argmax((train.lengths > 5) & (train.lengths < 20)))
    rest = train.take(np.delete(np.arange(len(train)), user))
    others = ItemKnn.fit(rest)
    # The same discounts for popularity, which he stays a part of.
    mine, theirs = np.maximum(train.popularity(), 1), np.maximum(rest.popularity(), 1)
    queries = np.repeat(np.arange(train.n_items + 1), np.diff(others.starts))
    discount = (mine[queries] / theirs[queries]) ** -0.5
    discount *= (mine[others.neighbours] / theirs[others.neighbours]) ** -0.1
    others = replace(others, weights=(others.weights * discount).astype(np.float32))
    sequence = train.of(user)
    found = LeftOut(knn, train).scores_along(sequence)
    for event in range(sequence.size):
        expected = others.scores_of(sequence[: event + 1])
        np.testing.assert_allclose(found[event], expected, atol=1e-5)
    assert not np.allclose(found[-1], knn.scores_of(sequence), atol=1e-5)
