"""Certifies a real pair that needs no training: item-kNN in full against a small part of it.

The edge keeps 5 neighbours an item in int8 and reads the last 3 items; the cloud is the whole
item-kNN. A quadratic router learns L_agree from seven features of the edge's list. Leave-one-out,
test slot; a quarter of the users teaches the router, and of the others 4,000 calibrate, 300 times
anew. (They are drawn from the users that are judged, so fewer promises break than with new users.)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from population import accepted_points

from tierline._config import EscalationPolicy
from tierline._core.control import EscalationControl
from tierline_cloud.certificate import METHODS, empirical_risks, threshold_grid
from tierline_cloud.data import Sequences, Split, leave_one_out, read_interactions
from tierline_cloud.evaluation import (
    Ranking,
    agreement_loss,
    cascade_gains,
    cheapest_escalation,
    escalation_curve,
    paired_retention,
    rank_catalogue,
    ranking_metrics,
    spearman,
)
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.models.baselines import ItemKnn

Floats = NDArray[np.float64]

NEIGHBOURS, RECENT, TOP = 5, 3, 50
SPLITS, CALIBRATION, DELTA, ALPHAS = 300, 4000, 0.05, (0.03, 0.05, 0.10)
RIDGE = 1e-3


def pruned(knn: ItemKnn) -> ItemKnn:
    """The NEIGHBOURS heaviest neighbours of each item, weights in 255 steps of the largest."""
    neighbours, weights, starts = [], [], [0]
    for start, end in pairwise(knn.starts.tolist()):
        row = knn.weights[start:end]
        chosen = np.argsort(-row, kind="stable")[:NEIGHBOURS]
        scale = row.max(initial=0.0) / 255 or 1.0
        neighbours.append(knn.neighbours[start:end][chosen])
        weights.append(np.round(row[chosen] / scale) * scale)
        starts.append(starts[-1] + chosen.size)
    return replace(
        knn,
        starts=np.array(starts),
        neighbours=np.concatenate(neighbours),
        weights=np.concatenate(weights).astype(np.float32),
    )


def last_items(histories: Sequences, count: int) -> Sequences:
    """The last ``count`` items of every user."""
    place = np.arange(histories.items.size) - np.repeat(histories.offsets[:-1], histories.lengths)
    return histories.keep(place >= np.repeat(histories.lengths - count, histories.lengths))


def features(block: NDArray[np.float32], lengths: NDArray[np.int64]) -> Floats:
    """[users, 7] from the edge's masked scores: history length; entropy and head mass of the top
    50; first and tenth score; margin after the tenth; number of candidates with a score."""
    top = -np.sort(-np.partition(block, -TOP, axis=1)[:, -TOP:], axis=1).astype(np.float64)
    top = np.maximum(top, 0.0)
    share = top / np.maximum(top.sum(axis=1, keepdims=True), 1e-9)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(axis=1)
    margin = (top[:, 9] - top[:, 10]) / np.maximum(top[:, 9], 1e-9)
    found = np.log1p((block > 1e-5).sum(axis=1))
    columns = [np.log1p(lengths), entropy, share[:, :10].sum(axis=1), top[:, 0], top[:, 9]]
    return np.stack([*columns, margin, found], axis=1)


def serve(knn: ItemKnn, read: Sequences, split: Split) -> tuple[Ranking, Floats]:
    """Lists and ranks of all users, and the features of each list."""
    told = np.zeros((len(read), 7))
    fill = 1e-6 * np.log1p(split.train.popularity()).astype(np.float32)  # past the last neighbour

    def scores(users: NDArray[np.int64]) -> NDArray[np.float32]:
        block = knn.scores(read, users) + fill
        masked = block.copy()
        for row, user in enumerate(users.tolist()):
            masked[row, split.test_history.of(user)] = -np.inf
        told[users] = features(masked, split.test_history.lengths[users])
        return block

    return rank_catalogue(scores, split.test_history, split.test_target), told


def router(told: Floats, losses: Floats, learners: NDArray[np.int64]) -> Floats:
    """L_agree predicted for everybody by ridge regression on squares and products, in [0, 1]."""
    centred = (told - told[learners].mean(axis=0)) / (told[learners].std(axis=0) + 1e-9)
    first, second = np.triu_indices(told.shape[1])
    design = np.column_stack([np.ones(len(told)), centred, centred[:, first] * centred[:, second]])
    design = np.clip(design, -20, 20)
    known = design[learners]
    normal = known.T @ known + RIDGE * learners.size * np.eye(design.shape[1])
    weights = np.linalg.solve(normal, known.T @ losses[learners])
    return np.clip(design @ weights, 0.0, 1.0)


def splits(u: Floats, losses: Floats, grid: Floats) -> dict[str, dict[str, float]]:
    """What 300 random calibrations accept; true risks are those of all users but the router's."""
    rng = np.random.default_rng(3)
    rows = np.stack([rng.choice(u.size, CALIBRATION, replace=False) for _ in range(SPLITS)])
    true = empirical_risks(losses, u, grid)
    escalation = np.array([(u > threshold).mean() for threshold in grid])
    found = {}
    for alpha in ALPHAS:
        for method in ("naive", "crc", *METHODS):
            points = accepted_points(
                u[rows], losses[rows], grid, alpha=alpha, delta=DELTA, method=method
            )
            found[f"{method}@{alpha}"] = {
                "violations": float((true[points] > alpha).mean()),
                "escalation": float(escalation[points].mean()),
            }
    return found


def measure(path: Path) -> dict[str, object]:
    """All figures of one data file."""
    split = leave_one_out(read_interactions(path))
    knn = ItemKnn.fit(split.train)
    cloud, _ = serve(knn, split.test_history, split)
    edge, told = serve(pruned(knn), last_items(split.test_history, RECENT), split)
    losses = agreement_loss(edge.top, cloud.top)
    order = np.random.default_rng(1).permutation(losses.size)
    learners, others = order[: losses.size // 4], order[losses.size // 4 :]
    u = router(told, losses, learners)
    curve = escalation_curve(losses[others], u[others])
    edge_ndcg, cloud_ndcg = ndcg(edge.ranks, 10)[others], ndcg(cloud.ranks, 10)[others]
    grid = threshold_grid(u[learners])
    retention = paired_retention(edge_ndcg, cloud_ndcg)
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=0.2))
    calls = sorted(u[others][:10_000].tolist())  # from the easiest to the hardest call
    spent = sum(control.decide(call).escalate for call in calls)
    return {
        "users": int(losses.size),
        "edge": ranking_metrics(edge.ranks, (10,)),
        "cloud": ranking_metrics(cloud.ranks, (10,)),
        "retention": [retention.low, retention.mean, retention.high],
        "loss_of_edge": float(losses.mean()),
        "spearman": spearman(u[others], losses[others]),
        "area_over_random": curve.area_over_random(),
        "residual": {share: curve.at(share) for share in (0.1, 0.2, 0.5)},
        "gap_closed": {share: curve.gap_closed(share) for share in (0.2, 0.5)},
        "gap_measurable": cascade_gains(edge_ndcg, cloud_ndcg, u[others], (0.2,))[0].measurable,
        "escalation_at_retention": {
            keep: cheapest_escalation(edge_ndcg, cloud_ndcg, u[others], retention=keep)
            for keep in (0.95, 0.99, 0.995)
        },
        "splits": splits(u[others], losses[others], grid),
        "budget_error_points": 100 * abs(spent / len(calls) - 0.2),
    }


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="interactions, e.g. Amazon Beauty's Beauty.txt")
    print(json.dumps(measure(parser.parse_args().data), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
