"""Ranks, metrics and agreement against slow computations written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline_cloud.data import Sequences
from tierline_cloud.evaluation import (
    agreement_loss,
    factor_scores,
    paired_bootstrap,
    rank_catalogue,
    ranking_metrics,
    spearman,
    tier_table,
)
from tierline_cloud.evaluation.ranking import Ranking


def _problem(seed: int) -> tuple[NDArray[np.float32], Sequences, NDArray[np.int64]]:
    """Scores with many ties, histories, and targets (some of them already seen)."""
    rng = np.random.default_rng(seed)
    users, items = int(rng.integers(1, 7)), int(rng.integers(3, 15))
    scores = rng.integers(0, 5, size=(users, items + 1)).astype(np.float32)
    rows = [rng.integers(1, items + 1, size=rng.integers(0, 5)).tolist() for _ in range(users)]
    return scores, Sequences.from_lists(rows, n_items=items), rng.integers(1, items + 1, size=users)


@given(st.integers(0, 10_000))
def test_ranking_and_metrics_match_sorting_by_hand(seed: int) -> None:
    scores, histories, targets = _problem(seed)
    ranking = rank_catalogue(lambda users: scores[users], histories, targets, k=4, chunk=2)
    ranks = []
    for user, target in enumerate(targets.tolist()):
        seen = set(histories.of(user).tolist())
        unseen = [item for item in range(1, scores.shape[1]) if item not in seen]
        order = sorted(unseen, key=lambda item: (-scores[user, item], item))
        assert ranking.top[user].tolist() == (order + [-1] * 4)[:4]
        ranks.append(order.index(target) + 1 if target in order else scores.shape[1])
    assert ranking.ranks.tolist() == ranks
    for k in (2, 4):
        found = ranking_metrics(ranking.ranks, (k,))
        users = len(ranks)
        wanted = {
            f"ndcg@{k}": sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / users,
            f"hr@{k}": sum(rank <= k for rank in ranks) / users,
            f"mrr@{k}": sum(1 / rank for rank in ranks if rank <= k) / users,
        }
        assert found == pytest.approx(wanted, abs=1e-6)


def test_factor_scores_are_products_of_states_and_rows() -> None:
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    scores = factor_scores(hidden.astype(np.float32), table.astype(np.float32))
    assert scores(np.array([4, 1])) == pytest.approx((hidden @ table.T)[[4, 1]], abs=1e-5)


def test_agreement_loss_of_a_hand_example() -> None:
    cloud = np.array([[1, 2, 3]] * 4)
    served = np.array([[1, 2, 3], [4, 5, 6], [2, 1, 3], [1, 9, 8]])
    third = 1 / math.log2(3)
    best = 3 + 2 * third + 1 / 2
    expected = [0.0, 1.0, 1 - (2 + 3 * third + 1 / 2) / best, 1 - 3 / best]
    assert agreement_loss(served, cloud) == pytest.approx(expected)


@given(st.lists(st.integers(0, 9), min_size=3, max_size=30))
def test_spearman_of_a_rising_function_is_one(values: list[int]) -> None:
    first = np.array(values, np.float64)
    expected = 1.0 if len(set(values)) > 1 else 0.0
    assert spearman(first, np.exp(first)) == pytest.approx(expected)
    assert spearman(first, -(first**3)) == pytest.approx(-expected)


def test_the_paired_bootstrap_covers_the_mean_and_shrinks_with_the_noise() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=2000)
    loud = paired_bootstrap(base + 0.5 + rng.normal(size=2000), base)
    still = paired_bootstrap(base + 0.5, base)
    assert loud.low < loud.mean < loud.high
    assert loud.low < 0.5 < loud.high
    assert still.high - still.low == pytest.approx(0.0, abs=1e-9)


def test_the_bootstrap_refuses_vectors_of_different_users() -> None:
    with pytest.raises(ValueError, match="equally long"):
        paired_bootstrap(np.zeros(3), np.zeros(4))


def test_tiered_serving_takes_the_cloud_answer_exactly_where_the_edge_is_unsure() -> None:
    edge = Ranking(ranks=np.array([1, 50, 50]), top=np.array([[1], [2], [3]]))
    cloud = Ranking(ranks=np.array([1, 1, 1]), top=np.array([[1], [9], [9]]))
    rows = tier_table(edge, cloud, np.array([0.1, 0.9, 0.5]), threshold=0.5)
    assert [row.name for row in rows] == ["edge only", "tiered", "cloud only"]
    assert [row.escalation for row in rows] == pytest.approx([0, 1 / 3, 1])
    assert [row.metrics["hr@10"] for row in rows] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [row.agreement_loss for row in rows] == pytest.approx([2 / 3, 1 / 3, 0])
