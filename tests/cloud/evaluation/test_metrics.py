"""What the metrics say of hand examples, and how the intervals behave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.data import Sequences
from tierline_cloud.evaluation import (
    auc,
    calibration_error,
    list_metrics,
    log_loss,
    paired_retention,
    rank_catalogue,
    ranking_metrics,
)

TRAIN = Sequences.from_lists([[1, 2, 3], [1, 2], [1]], n_items=4)


def test_lists_that_show_one_item_to_all_cover_little_and_are_unequal() -> None:
    found = list_metrics(np.array([[1], [1], [1]]), TRAIN)
    assert found == pytest.approx({"coverage@1": 0.25, "popularity@1": 3.0, "gini@1": 0.75})


def test_lists_that_show_every_item_once_cover_all_and_are_equal() -> None:
    found = list_metrics(np.array([[1, 2], [3, 4]]), TRAIN)
    assert found == pytest.approx({"coverage@2": 1.0, "popularity@2": 1.5, "gini@2": 0.0})


def test_missing_places_in_a_list_show_nothing() -> None:
    assert list_metrics(np.array([[1, -1]]), TRAIN)["coverage@2"] == 0.25
    with pytest.raises(ValueError, match="no items"):
        list_metrics(np.array([[-1, -1]]), TRAIN)


def test_a_target_nobody_trained_on_counts_as_a_miss_and_stays_in_the_mean() -> None:
    scores = np.zeros((2, 5), np.float32)
    scores[:, 1:4] = [3, 2, 1]  # item 4 is cold: it scores lowest
    histories = Sequences.from_lists([[], []], n_items=4)
    ranks = rank_catalogue(lambda users: scores[users], histories, np.array([1, 4])).ranks
    assert ranks.tolist() == [1, 4]
    assert ranking_metrics(ranks, (2,))["hr@2"] == 0.5


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(examples: list[tuple[bool, int]]) -> None:
    positives = [score for label, score in examples if label]
    negatives = [score for label, score in examples if not label]
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    ours = auc(
        np.array([label for label, _ in examples], np.float64),
        np.array([score for _, score in examples], np.float64),
    )
    expected = sum(pairs) / len(pairs) if pairs else math.nan
    assert ours == pytest.approx(expected, nan_ok=True)


def test_certain_and_wrong_costs_much_but_not_everything() -> None:
    assert log_loss(np.array([1.0]), np.array([0.0])) == pytest.approx(-math.log(1e-15))


def test_calibration_error_of_equal_mass_bins_by_hand() -> None:
    labels = np.array([0.0, 1, 1, 1])
    probabilities = np.array([0.1, 0.3, 0.8, 0.9])
    expected = 0.5 * abs(0.5 - 0.2) + 0.5 * abs(1.0 - 0.85)
    assert calibration_error(labels, probabilities, bins=2) == pytest.approx(expected)


def test_probabilities_that_are_right_have_no_calibration_error() -> None:
    rng = np.random.default_rng(5)
    probabilities = rng.random(200_000)
    labels = (rng.random(200_000) < probabilities).astype(np.float64)
    assert calibration_error(labels, probabilities) < 0.01
    assert calibration_error(labels, probabilities**2) > 0.1


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0.0, 2.0], [0.5, 0.5], "0 or 1"),
        ([0.0, 1.0], [0.5, 1.5], r"\[0, 1\]"),
        ([0.0, 1.0], [0.5, math.nan], "NaN"),
        ([0.0], [0.5, 0.5], "equally long"),
        ([], [], "equally long"),
    ],
)
def test_values_that_are_no_predictions_are_refused(
    labels: list[float], probabilities: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_error(np.array(labels), np.array(probabilities))


def test_retention_is_a_ratio_of_means_with_an_interval_around_it() -> None:
    rng = np.random.default_rng(6)
    full = rng.random(4000)
    found = paired_retention(0.9 * full + rng.normal(0, 0.1, 4000), full)
    assert found.mean == pytest.approx(0.9, abs=0.02)
    assert found.low < 0.9 < found.high
    assert found.high - found.low < 0.02


def test_users_that_vary_together_make_the_retention_sharper_than_two_means() -> None:
    full = np.random.default_rng(7).exponential(size=500)
    paired = paired_retention(0.9 * full, full)
    assert paired.high - paired.low == pytest.approx(0.0, abs=1e-9)


def test_nothing_can_be_retained_of_a_model_that_never_hits() -> None:
    with pytest.raises(ValueError, match="nothing to retain"):
        paired_retention(np.zeros(5), np.zeros(5))
