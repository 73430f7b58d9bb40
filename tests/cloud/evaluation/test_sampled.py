"""The 99-negatives protocol: refused unless asked for, and then it warns."""

from __future__ import annotations

import numpy as np
import pytest

from tierline_cloud.data import Sequences
from tierline_cloud.evaluation import SampledMetricsWarning, rank_catalogue, sampled_ranks

ITEMS = 400


def _problem(users: int = 300) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], ...]:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(users, ITEMS + 1)).astype(np.float32),)


def test_sampled_ranks_are_refused_by_default() -> None:
    (scores,) = _problem(1)
    histories = Sequences.from_lists([[1]], n_items=ITEMS)
    with pytest.raises(ValueError, match="allow_sampled=True"):
        sampled_ranks(lambda users: scores[users], histories, np.array([2]))


def test_sampled_ranks_warn_and_are_far_higher_than_full_ones() -> None:
    (scores,) = _problem()
    histories = Sequences.from_lists([[1, 2]] * 300, n_items=ITEMS)
    targets = np.random.default_rng(2).integers(3, ITEMS + 1, 300)
    full = rank_catalogue(lambda users: scores[users], histories, targets).ranks
    with pytest.warns(SampledMetricsWarning, match="Krichene"):
        sampled = sampled_ranks(lambda users: scores[users], histories, targets, allow_sampled=True)
    assert (sampled <= full).all()
    assert (sampled <= 10).mean() > 3 * (full <= 10).mean()


def test_with_as_many_negatives_as_unseen_items_the_ranks_are_the_full_ones() -> None:
    scores = np.random.default_rng(3).integers(0, 9, (50, 31)).astype(np.float32)
    rows = [[1 + user % 7, 9] for user in range(50)]
    histories = Sequences.from_lists(rows, n_items=30)
    targets = np.random.default_rng(4).integers(10, 31, 50)
    full = rank_catalogue(lambda users: scores[users], histories, targets).ranks
    with pytest.warns(SampledMetricsWarning):
        sampled = sampled_ranks(
            lambda users: scores[users], histories, targets, allow_sampled=True, chunk=7
        )
    assert sampled.tolist() == full.tolist()
