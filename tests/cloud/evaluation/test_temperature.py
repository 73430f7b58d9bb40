"""A temperature makes claimed chances true; scores of another scale get the same chances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline_cloud.data import Sequences
from tierline_cloud.evaluation.ranking import ScoreUsers, mask_seen
from tierline_cloud.evaluation.temperature import Chances, fit_chances, reliability

USERS, ITEMS = 4000, 30
EVERYONE = np.arange(USERS)


def _world(scale: float) -> tuple[ScoreUsers, Sequences, NDArray[np.int64]]:
    """Targets drawn by softmax of logits over unseen items, and those logits times ``scale``."""
    rng = np.random.default_rng(1)
    histories = Sequences.from_lists(
        [rng.integers(1, ITEMS + 1, size=3).tolist() for _ in range(USERS)], n_items=ITEMS
    )
    logits = (2 * rng.normal(size=(USERS, ITEMS + 1))).astype(np.float32)
    masked = logits.copy()
    mask_seen(masked, histories, EVERYONE)
    chances = np.exp(masked - masked.max(axis=1, keepdims=True))
    drawn = np.cumsum(chances / chances.sum(axis=1, keepdims=True), axis=1)
    targets = (drawn < rng.random((USERS, 1))).sum(axis=1).clip(1, ITEMS)
    scaled = (logits * scale).astype(np.float32)
    return (lambda users: scaled[users]), histories, targets.astype(np.int64)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_scale_the_scores_were_multiplied_by(scale: float) -> None:
    scores, histories, targets = _world(scale)
    found = fit_chances(scores, histories, targets, EVERYONE[:3000])
    assert found.temperature == pytest.approx(scale, rel=0.08)
    assert found.floor <= 0.04


def test_calibrated_chances_are_true_and_overconfident_ones_are_not() -> None:
    scores, histories, targets = _world(4.0)
    judged = EVERYONE[2000:]
    found = fit_chances(scores, histories, targets, EVERYONE[:2000])
    before = reliability(scores, histories, targets, judged, chances=Chances())
    after = reliability(scores, histories, targets, judged, chances=found)
    assert before.ece_top1 > 0.2
    assert after.ece_top1 < 0.04  # of 2,000 users in 15 bins, some .03 is chance
    assert after.nll < before.nll
    assert (after.users, len(after.bins)) == (2000, 15)


def test_two_tiers_of_different_scale_share_a_list_once_calibrated() -> None:
    for scale in (0.5, 3.0):
        scores, histories, targets = _world(scale)
        found = fit_chances(scores, histories, targets, EVERYONE)
        block = scores(EVERYONE[:5]) / found.temperature
        reference = _world(1.0)[0](EVERYONE[:5])
        assert np.abs(block - reference).max() < 0.08 * np.abs(reference).max()


def test_events_that_no_score_foresees_become_the_floor_and_leave_the_temperature_alone() -> None:
    scores, histories, targets = _world(2.0)
    rng = np.random.default_rng(9)
    free = np.array(
        [rng.choice(np.setdiff1d(np.arange(1, ITEMS + 1), histories.of(u))) for u in range(USERS)]
    )
    mixed = np.where(rng.random(USERS) < 0.4, free, targets).astype(np.int64)
    found = fit_chances(scores, histories, mixed, EVERYONE[:2000])
    assert found.floor == pytest.approx(0.4, abs=0.08)
    assert found.temperature == pytest.approx(2.0, rel=0.2)
    judged = EVERYONE[2000:]
    after = reliability(scores, histories, mixed, judged, chances=found)
    alone = Chances(temperature=4.0)
    assert after.nll < reliability(scores, histories, mixed, judged, chances=alone).nll


@pytest.mark.parametrize(("temperature", "floor"), [(0.0, 0.0), (1.0, -0.1), (1.0, 1.5)])
def test_chances_that_are_none_are_refused(temperature: float, floor: float) -> None:
    with pytest.raises(ValueError, match="expected a temperature"):
        Chances(temperature=temperature, floor=floor)


def test_targets_nobody_can_be_recommended_are_no_calibration() -> None:
    scores, histories, _ = _world(1.0)
    seen = np.array([histories.of(user)[0] for user in range(USERS)], np.int64)
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        fit_chances(scores, histories, seen, EVERYONE[:50])


@settings(max_examples=25)
@given(st.permutations(range(12)))
def test_seen_items_are_masked_for_users_in_any_order(order: list[int]) -> None:
    histories = Sequences.from_lists([[1 + user % 5] * (user % 3) for user in range(12)], n_items=9)
    users = np.array(order[:7])
    block = np.zeros((7, 10), np.float32)
    mask_seen(block, histories, users)
    for row, user in zip(block, users.tolist(), strict=True):
        assert set(np.flatnonzero(np.isneginf(row)).tolist()) == {0, *histories.of(user).tolist()}
