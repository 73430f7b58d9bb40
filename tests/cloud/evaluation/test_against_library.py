"""Our metrics equal those of torchmetrics, an independent library, to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
)
from torchmetrics.functional.regression import mean_squared_error, spearman_corrcoef
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_reciprocal_rank,
)

from tierline_cloud.data import Sequences
from tierline_cloud.evaluation import (
    auc,
    brier_score,
    calibration_error,
    log_loss,
    rank_catalogue,
    ranking_metrics,
    spearman,
)

USERS, ITEMS = 150, 120


def _catalogue() -> tuple[NDArray[np.float32], Sequences, NDArray[np.int64]]:
    """Distinct scores (libraries break ties as they like), histories, targets not among them."""
    rng = np.random.default_rng(11)
    scores = rng.permuted(np.tile(np.arange(ITEMS + 1, dtype=np.float32), (USERS, 1)), axis=1)
    rows = [rng.permutation(ITEMS)[: rng.integers(1, 20)] + 1 for _ in range(USERS)]
    targets = np.array([row[-1] for row in rows])
    scores[np.arange(USERS), targets] += 0.7 * ITEMS + 0.5  # found often, and still no ties
    return scores, Sequences.from_lists([row[:-1] for row in rows], n_items=ITEMS), targets


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_full_ranking_metrics_equal_the_librarys(k: int) -> None:
    scores, histories, targets = _catalogue()
    ours = ranking_metrics(rank_catalogue(lambda u: scores[u], histories, targets).ranks, (k,))
    theirs = {f"ndcg@{k}": 0.0, f"hr@{k}": 0.0, f"mrr@{k}": 0.0}
    for user, target in enumerate(targets.tolist()):
        unseen = np.setdiff1d(np.arange(1, ITEMS + 1), histories.of(user))
        values = torch.from_numpy(scores[user, unseen])
        relevant = torch.from_numpy(unseen == target)
        theirs[f"ndcg@{k}"] += float(retrieval_normalized_dcg(values, relevant, top_k=k)) / USERS
        theirs[f"hr@{k}"] += float(retrieval_hit_rate(values, relevant, top_k=k)) / USERS
        theirs[f"mrr@{k}"] += float(retrieval_reciprocal_rank(values, relevant, top_k=k)) / USERS
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert 0 < ours[f"ndcg@{k}"] < 1


def _predictions(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels and probabilities, of which many are equal."""
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.beta(1.5, 3.0, 1001), 2).clip(0.01, 0.99)
    return (rng.random(1001) < probabilities**1.3).astype(np.float64), probabilities


@pytest.mark.parametrize("seed", [1, 2])
def test_pointwise_metrics_equal_the_librarys(seed: int) -> None:
    labels, probabilities = _predictions(seed)
    p, y = torch.from_numpy(probabilities), torch.from_numpy(labels)
    assert auc(labels, probabilities) == pytest.approx(float(binary_auroc(p, y.long())), abs=1e-6)
    assert log_loss(labels, probabilities) == pytest.approx(
        float(binary_cross_entropy(p, y)), abs=1e-6
    )
    assert brier_score(labels, probabilities) == pytest.approx(
        float(mean_squared_error(p, y)), abs=1e-6
    )


@pytest.mark.parametrize("bins", [7, 15])
def test_the_calibration_error_of_equal_widths_equals_the_librarys(bins: int) -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.random(2000)
    labels = (rng.random(2000) < probabilities**2).astype(np.float64)
    # For one class the library takes the probability of the positive label, as we do.
    theirs = binary_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels).long(), n_bins=bins, norm="l1"
    )
    ours = calibration_error(labels, probabilities, bins=bins, equal_mass=False)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_the_rank_correlation_equals_the_librarys() -> None:
    rng = np.random.default_rng(4)
    first = np.round(rng.random(300), 1)
    second = np.round(first + rng.normal(0, 0.3, 300), 1)
    theirs = float(spearman_corrcoef(torch.from_numpy(first), torch.from_numpy(second)))
    assert spearman(first, second) == pytest.approx(theirs, abs=1e-6)
