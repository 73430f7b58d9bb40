"""Losses beside L_agree, and the curves: what a gate saves between chance and an oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.evaluation import (
    cascade_gains,
    cheapest_escalation,
    escalation_curve,
    label_loss,
    overlap_loss,
)


def test_the_overlap_loss_forgets_the_order() -> None:
    cloud = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [7, -1, -1], [-1, -1, -1]])
    served = np.array([[3, 1, 2], [4, 5, 6], [1, 9, 8], [7, -1, -1], [1, 2, 3]])
    assert overlap_loss(served, cloud) == pytest.approx([0, 1, 2 / 3, 0, 0])


def test_the_label_loss_is_negative_where_the_edge_is_luckier() -> None:
    losses = label_loss(np.array([1, 3, 50]), np.array([3, 1, 50]), k=10)
    assert losses == pytest.approx([0.5 - 1, 1 - 0.5, 0])


def test_lists_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        overlap_loss(np.zeros((2, 3), np.int64), np.zeros((2, 4), np.int64))


def test_a_curve_by_hand() -> None:
    curve = escalation_curve(np.array([0.4, 0.0, 0.8, 0.4]), np.array([0.9, 0.1, 0.8, 0.2]))
    assert curve.residual == pytest.approx([0.4, 0.3, 0.1, 0.0, 0.0])
    assert curve.oracle == pytest.approx([0.4, 0.2, 0.1, 0.0, 0.0])
    assert curve.random == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert curve.at(0.5) == pytest.approx(0.1)
    assert curve.gap_closed(0.25) == pytest.approx(0.0)
    assert curve.gap_closed(0.5) == pytest.approx(1.0)
    assert curve.area_over_random() == pytest.approx((0.35 + 0.2 + 0.05) / 4 / 0.2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=40))
def test_no_gate_beats_the_oracle_and_all_escalated_lose_nothing(
    calls: list[tuple[float, int]],
) -> None:
    losses = np.array([loss for loss, _ in calls])
    curve = escalation_curve(losses, np.array([u for _, u in calls], np.float64))
    assert (curve.residual >= curve.oracle - 1e-9).all()
    assert curve.residual[0] == pytest.approx(losses.mean())
    assert curve.residual[-1] == pytest.approx(0.0, abs=1e-12)
    assert (np.diff(curve.residual) <= 1e-12).all()


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=40))
def test_a_gate_that_knows_nothing_is_the_random_one(values: list[float]) -> None:
    curve = escalation_curve(np.array(values), np.full(len(values), 0.3))
    assert curve.residual == pytest.approx(curve.random)
    assert curve.area_over_random() == pytest.approx(1.0)


def test_a_gate_that_knows_the_losses_is_the_oracle() -> None:
    losses = np.random.default_rng(1).random(500)
    curve = escalation_curve(losses, losses)
    assert curve.residual == pytest.approx(curve.oracle)
    assert curve.gap_closed(0.3) == pytest.approx(1.0)


def _pair(gap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(2)
    hardness = rng.random(20_000)
    edge = (rng.random(20_000) < 0.10).astype(float) * 0.6
    cloud = np.where(rng.random(20_000) < gap * hardness, 0.6, edge)
    return edge, cloud, hardness


def test_the_gain_goes_from_the_edges_quality_to_the_clouds() -> None:
    edge, cloud, hardness = _pair(0.04)
    nothing, half, everything = cascade_gains(edge, cloud, hardness, (0.0, 0.5, 1.0))
    assert (nothing.pgr, everything.pgr) == (pytest.approx(0), pytest.approx(1))
    assert nothing.retention == pytest.approx(edge.mean() / cloud.mean())
    assert everything.retention == pytest.approx(1)
    assert half.pgr == pytest.approx(0.75, abs=0.06)  # the upper half of a rising triangle
    assert half.measurable


def test_a_pair_without_a_gap_recovers_nothing_and_says_so() -> None:
    edge, _, hardness = _pair(0.0)
    rng = np.random.default_rng(3)
    cloud = np.where(rng.random(edge.size) < 0.05, rng.choice([0.0, 0.6], edge.size), edge)
    (gain,) = cascade_gains(edge, edge.mean() - cloud.mean() + cloud + 1e-5, hardness, (0.5,))
    assert not gain.measurable
    assert math.isnan(gain.pgr)


def test_the_cheapest_escalation_reaches_its_retention_and_not_before() -> None:
    edge, cloud, hardness = _pair(0.04)
    share = cheapest_escalation(edge, cloud, hardness, retention=0.95)
    at, before = cascade_gains(edge, cloud, hardness, (share + 1e-9, max(0.0, share - 0.02)))
    assert 0 < share < 1
    assert at.retention >= 0.95
    assert before.retention < 0.95


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_the_unit_interval_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="escalation"):
        escalation_curve(np.ones(3), np.ones(3)).at(share)
