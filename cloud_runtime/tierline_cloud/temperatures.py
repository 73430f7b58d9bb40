"""The factory's temperatures: one a tier, and what it is worth on users nobody fitted it to."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from tierline_cloud.evaluation.ranking import ScoreUsers
from tierline_cloud.evaluation.temperature import Chances, fit_chances, reliability
from tierline_cloud.factory import Factory, served_states
from tierline_cloud.models.blend import blended
from tierline_cloud.stages import Result, Stage
from tierline_cloud.training.loop import hidden_states

WANTED_ECE = 0.02


def temperatures(factory: Factory) -> Stage:
    """``{"edge": …, "cloud": …}``: temperature and floor fitted on the calibration users, and the
    reliability before (the plain softmax) and after on the report's users."""

    def make(folder: Path, key: str) -> Result:
        return {tier: _tier(factory, scores) for tier, scores in _scores(factory).items()}

    inputs = {"seed": factory.seed, "format": 2}
    after = (factory.quantized, factory.blend)
    return factory.store.run("temperature", make, inputs=inputs, after=after)


def _scores(factory: Factory) -> dict[str, ScoreUsers]:
    """What each tier is served with: int8 products at the edge, and each with its neighbours."""
    histories = factory.split.test_history
    hidden = np.load(factory.quantized.folder / "hidden.npy")
    cloud = factory.served
    states = hidden_states(cloud.network, histories)
    return {
        "edge": factory.edge_scores(served_states(hidden)),
        "cloud": blended(states, cloud.table, histories, cloud.neighbours),
    }


def _tier(factory: Factory, scores: ScoreUsers) -> Result:
    histories, targets = factory.split.test_history, factory.split.test_target
    groups = factory.groups
    found = fit_chances(scores, histories, targets, groups.calibration)
    before, after = (
        reliability(scores, histories, targets, groups.report, chances=chances)
        for chances in (Chances(), found)
    )
    return {
        **asdict(found),
        "users": int(groups.calibration.size),
        "before": asdict(before),
        "after": asdict(after),
        "within": after.ece_top1 <= WANTED_ECE,
    }
