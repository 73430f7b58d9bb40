"""Partial escalation: bands contain each other, a wider one never loses more, cost decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.partial import (
    CostCurve,
    EscalationOption,
    ambiguous_band,
    best_first,
    cheapest,
    merge_band,
)

K = 4
WIDTHS = (0.0, 0.3, 1.0, 2.5, math.inf)


def _agreement_loss(served: list[int], cloud: list[int]) -> float:
    """L_agree of two top-k lists, by its definition."""
    gain = {item: len(cloud) - rank for rank, item in enumerate(cloud)}
    discounts = [1 / math.log2(rank + 2) for rank in range(len(cloud))]
    gained = sum(d * gain.get(item, 0) for d, item in zip(discounts, served, strict=True))
    best = sum(d * gain[item] for d, item in zip(discounts, cloud, strict=True))
    return 1 - gained / best


@given(st.integers(0, 10_000))
def test_a_wider_band_contains_the_narrower_and_never_loses_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(K, 25))
    ids = rng.permutation(100)[:n].astype(np.int64)
    edge = rng.integers(0, 8, n).astype(np.float32)  # many ties
    cloud = rng.integers(0, 8, n).astype(np.float32)
    # The cloud's own list is of the whole catalogue: half of it may be no candidate here.
    strangers = (1000 + np.arange(n)).astype(np.int64)
    everyone = np.concatenate([cloud, rng.integers(0, 8, n).astype(np.float32)])
    names = np.concatenate([ids, strangers])
    wanted = names[best_first(everyone, names)[:K]].tolist()
    order, last, inside = best_first(edge, ids), math.inf, set[int]()
    for width in WIDTHS:
        band = ambiguous_band(edge, K, width, ids=ids)
        assert inside <= set(band.tolist())
        inside = set(band.tolist())
        served = merge_band(order, band, cloud[band], ids=ids)
        assert sorted(served.tolist()) == list(range(n))
        loss = _agreement_loss(ids[served[:K]].tolist(), wanted)
        assert loss <= last + 1e-12
        last = loss


def test_the_widest_band_over_the_whole_catalogue_serves_the_clouds_list() -> None:
    rng = np.random.default_rng(1)
    edge, cloud = rng.normal(size=50), rng.normal(size=50)
    band = ambiguous_band(edge, 10, math.inf)
    served = merge_band(best_first(edge), band, cloud[band])
    assert served.tolist() == best_first(cloud).tolist()


def test_the_band_of_width_zero_is_the_top_k_and_what_ties_with_its_last() -> None:
    scores = np.array([5.0, 4.0, 3.0, 3.0, 1.0])
    assert ambiguous_band(scores, 2, 0.0).tolist() == [0, 1]
    assert ambiguous_band(scores, 3, 0.0).tolist() == [0, 1, 2, 3]


def test_the_band_does_not_depend_on_the_scores_scale_or_zero() -> None:
    scores = np.random.default_rng(2).normal(size=60)
    band = ambiguous_band(scores, 5, 0.5).tolist()
    assert 5 < len(band) < 60
    assert ambiguous_band(scores * 7 - 100, 5, 0.5).tolist() == band


def test_candidates_without_a_finite_score_are_never_sent() -> None:
    scores = np.array([1.0, -np.inf, np.nan, 0.5, 0.0])
    assert ambiguous_band(scores, 2, math.inf).tolist() == [0, 3, 4]
    assert ambiguous_band(scores, 4, 0.0).tolist() == [0, 3, 4]
    assert best_first(scores)[:3].tolist() == [0, 3, 4]


def test_ties_go_to_the_lowest_id() -> None:
    scores, ids = np.array([1.0, 1.0, 1.0]), np.array([30, 10, 20])
    assert best_first(scores, ids).tolist() == [1, 2, 0]
    merged = merge_band(best_first(scores, ids), np.array([0, 1, 2]), np.ones(3), ids=ids)
    assert merged.tolist() == [1, 2, 0]


@pytest.mark.parametrize(("k", "width"), [(0, 1.0), (3, -0.1), (3, math.nan)])
def test_a_band_that_makes_no_sense_is_refused(k: int, width: float) -> None:
    with pytest.raises(ValueError, match="width"):
        ambiguous_band(np.ones(5), k, width)


def test_a_cloud_answer_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="one cloud score"):
        merge_band(np.arange(5), np.array([0, 1]), np.ones(3))


def test_the_cost_curve_goes_through_measured_costs() -> None:
    curve = CostCurve.fit([10, 100, 1000], [12.0, 30.0, 210.0])
    assert (curve.fixed, curve.per_candidate) == (pytest.approx(10), pytest.approx(0.2))
    assert curve.of(50) == pytest.approx(20)


@pytest.mark.parametrize("costs", [[5.0, 4.0], [1.0, 100.0]])
def test_the_cost_curve_never_has_a_negative_part(costs: list[float]) -> None:
    curve = CostCurve.fit([10, 100], costs)
    assert curve.fixed >= 0
    assert curve.per_candidate >= 0


def test_one_size_makes_no_curve() -> None:
    with pytest.raises(ValueError, match="two numbers"):
        CostCurve.fit([10, 10], [1.0, 1.0])


WHOLE = EscalationOption(width=None, share=0.2, candidates=1000, bound=0.04)
BAND = EscalationOption(width=0.5, share=0.3, candidates=20, bound=0.05)
NARROW = EscalationOption(width=0.1, share=0.2, candidates=10, bound=0.09)


def test_a_cloud_paid_by_the_candidate_gets_the_band() -> None:
    assert cheapest([WHOLE, BAND, NARROW], CostCurve(fixed=1, per_candidate=1), 0.05) == BAND


def test_a_cloud_that_costs_the_same_for_any_number_gets_the_whole_call() -> None:
    assert cheapest([WHOLE, BAND, NARROW], CostCurve(fixed=5, per_candidate=0.0), 0.05) == WHOLE


def test_no_option_whose_bound_is_above_alpha_is_taken_however_cheap() -> None:
    assert cheapest([NARROW], CostCurve(fixed=0, per_candidate=1), 0.05) is None
    assert cheapest([NARROW, WHOLE], CostCurve(fixed=0, per_candidate=1), 0.05) == WHOLE
