"""The cost model follows any cost that grows with the rows, and never predicts nonsense."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tierline_serving.costs import FORGOTTEN, CostModel, bucket_of

BATCHES = st.lists(st.tuples(st.integers(1, 5000), st.floats(0.0, 10.0)), min_size=1, max_size=60)


def fitted(cost: dict[int, float], times: int = 3) -> CostModel:
    model = CostModel()
    for _ in range(times):
        for rows, seconds in cost.items():
            model.add(rows, seconds)
    return model


def test_a_straight_cost_is_recovered_between_and_beyond_what_was_seen() -> None:
    model = fitted({10: 0.003, 100: 0.012, 400: 0.042})
    for rows in (1, 10, 55, 100, 250, 400, 1000):
        assert model.seconds(rows) == pytest.approx(0.002 + rows * 0.0001, rel=1e-6)


def test_a_cost_that_bends_is_followed_bucket_by_bucket() -> None:
    cost = {8: 0.001, 64: 0.0011, 512: 0.02, 4096: 0.3}  # out of a cache, then out of the next
    model = fitted(cost)
    for rows, seconds in cost.items():
        assert model.seconds(rows) == pytest.approx(seconds, rel=1e-6)


def test_a_bucket_not_seen_for_long_says_nothing_any_more() -> None:
    model = fitted({1000: 5.0})
    for _ in range(round(math.log(FORGOTTEN / 3) / math.log(0.95)) + 1):
        model.add(10, 0.001)
    assert model.seconds(1000) < 5.0


def test_nothing_seen_predicts_nothing() -> None:
    assert CostModel().seconds(100) == 0.0
    assert CostModel().rows_within(1.0, 100) == 0


@given(BATCHES, st.integers(0, 100_000))
def test_a_prediction_is_finite_never_negative_and_never_falls_with_the_rows(
    batches: list[tuple[int, float]], rows: int
) -> None:
    model = CostModel()
    for size, seconds in batches:
        model.add(size, seconds)
    assert 0.0 <= model.seconds(rows) <= model.seconds(rows + 1) * (1 + 1e-9) + 1e-12 < math.inf


@given(BATCHES, st.floats(1e-6, 20.0), st.integers(1, 5000))
@example([(1, 1.1e-308)], 2.0, 1)
def test_what_is_said_to_fit_into_a_span_fits(
    batches: list[tuple[int, float]], span: float, most: int
) -> None:
    model = CostModel()
    for size, seconds in batches:
        model.add(size, seconds)
    rows = model.rows_within(span, most)
    assert 0 <= rows <= most
    assert rows == 0 or model.seconds(rows) <= span * (1 + 1e-6)


def test_a_bucket_is_a_power_of_two() -> None:
    assert [bucket_of(rows) for rows in (1, 2, 3, 100, 128, 129)] == [1, 2, 4, 128, 128, 256]
