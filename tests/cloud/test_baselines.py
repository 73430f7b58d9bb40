"""Item-kNN is exactly the recipe: a hand example, and the published figure on Amazon Beauty."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tierline_cloud.data import Sequences, leave_one_out, read_interactions
from tierline_cloud.evaluation import rank_catalogue, ranking_metrics
from tierline_cloud.models.baselines import ItemKnn, popularity_prior


def test_knn_scores_of_a_hand_example() -> None:
    train = Sequences.from_lists([[1, 2, 3], [1, 2]], n_items=4)
    knn = ItemKnn.fit(train)
    scores = knn.scores(Sequences.from_lists([[1, 2]], n_items=4), np.array([0]))[0]
    # Pairs: 1→2 twice at distance 1, 2→3 once at 1, 1→3 once at 2; backwards half of it.
    popularity = {1: 2.0, 2: 2.0, 3: 1.0}
    count = {(1, 2): 2.0, (2, 3): 1.0, (1, 3): 0.5, (2, 1): 1.0, (3, 2): 0.5, (3, 1): 0.25}

    def similarity(query: int, target: int) -> float:
        pair = count.get((query, target), 0.0)
        return pair / float(popularity[query] ** 0.5 * popularity[target] ** 0.1)

    for item in (1, 2, 3):
        expected = similarity(2, item) + 0.6 * similarity(1, item)
        assert scores[item] == pytest.approx(expected, rel=1e-6)
    assert scores[4] == 0.0


def test_knn_looks_at_the_last_twenty_events_only() -> None:
    train = Sequences.from_lists([[1, 2]], n_items=30)
    history = Sequences.from_lists([[1, *range(3, 23)]], n_items=30)
    assert not ItemKnn.fit(train).scores(history, np.array([0])).any()


def test_the_prior_ranks_by_popularity_and_never_the_padding() -> None:
    prior = popularity_prior(Sequences.from_lists([[2, 2, 1]], n_items=3))
    assert prior.argsort()[::-1].tolist() == [2, 1, 3, 0]
    assert np.isneginf(prior[0])
    assert prior.dtype == np.float32


def test_knn_on_beauty_reaches_the_known_figure(repository: Path) -> None:
    near = repository.parent / "shared" / "data" / "amazon-beauty" / "Beauty.txt"
    path = Path(os.environ.get("TIERLINE_BEAUTY", near))
    if not path.exists():
        pytest.skip("needs Amazon Beauty: name the file in TIERLINE_BEAUTY")
    split = leave_one_out(read_interactions(path))
    knn = ItemKnn.fit(split.train)
    ranking = rank_catalogue(
        lambda users: knn.scores(split.test_history, users), split.test_history, split.test_target
    )
    assert ranking_metrics(ranking.ranks)["ndcg@10"] == pytest.approx(0.0534, abs=0.0005)
