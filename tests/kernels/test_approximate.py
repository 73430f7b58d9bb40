"""The certificate is never wrong, uncertified rows fall back, and recall follows the formula."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline_kernels import KernelError, topk
from tierline_kernels.approximate import Buckets, approximate_topk, expected_recall, plan


@settings(max_examples=600, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 4),
    n=st.integers(0, 200),
    k=st.integers(0, 30),
    count=st.integers(1, 40),
    kept=st.integers(1, 8),
    style=st.sampled_from(["random", "ties", "rising", "nan"]),
)
def test_a_certified_row_is_exact_and_the_fallback_makes_all_rows_so(
    seed: int, rows: int, n: int, k: int, count: int, kept: int, style: str
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, n)).astype(np.float32)
    if style == "ties":
        x = rng.integers(0, 3, (rows, n)).astype(np.float32)
    elif style == "rising":
        x = np.sort(x, axis=1)
    elif style == "nan":
        x[rng.random(x.shape) < 0.4] = rng.choice([np.nan, np.inf, -np.inf])
    wanted = topk(x, k, backend="reference")
    got = approximate_topk(x, k, buckets=Buckets(count, kept))
    right = (got.indices == wanted.indices).all(axis=1)
    assert (right | ~got.certified).all()
    if kept >= min(k, n) or (count * kept >= n > 0 and kept >= -(-n // count)):
        assert got.certified.all()
    full = approximate_topk(x, k, buckets=Buckets(count, kept), exact=True)
    assert full.certified.all()
    np.testing.assert_array_equal(full.indices, wanted.indices)
    np.testing.assert_array_equal(full.values, wanted.values)


def test_most_exact_answers_are_certified() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 4000)).astype(np.float32)
    got = approximate_topk(x, 20, buckets=Buckets(32, 6))
    right = (got.indices == topk(x, 20).indices).all(axis=1)
    assert (right | ~got.certified).all()
    # Not all: a bucket whose last kept entry is in the answer may have given nothing good away.
    assert got.certified.sum() >= 0.95 * right.sum()


@pytest.mark.parametrize(("k", "count", "kept"), [(10, 33, 2), (50, 40, 4), (100, 77, 4)])
def test_measured_recall_is_what_the_formula_says(k: int, count: int, kept: int) -> None:
    rng = np.random.default_rng(2)
    n, rows = 4000, 150
    x = rng.standard_normal((rows, n)).astype(np.float32)
    got = approximate_topk(x, k, buckets=Buckets(count, kept)).indices
    wanted = topk(x, k).indices
    measured = np.mean([np.isin(got[b], wanted[b]).mean() for b in range(rows)])
    assert abs(measured - expected_recall(n, k, Buckets(count, kept))) < 0.006


def test_the_formula_is_the_mean_over_all_orders_also_where_buckets_differ_in_size() -> None:
    for n, k, count, kept in ((5, 2, 2, 1), (6, 3, 4, 1), (6, 4, 3, 1), (7, 3, 2, 2), (3, 2, 5, 1)):
        orders = np.array(list(permutations(range(n))), np.float32)
        got = approximate_topk(orders, k, buckets=Buckets(count, kept)).values
        recall = (got >= n - k).sum() / (len(orders) * k)
        assert expected_recall(n, k, Buckets(count, kept)) == pytest.approx(recall, abs=1e-12)


def hard_rows(rng: np.random.Generator, rows: int, n: int) -> np.ndarray[Any, Any]:
    """Rows whose order breaks the assumption of random buckets, and some that do not."""
    x = rng.standard_normal((rows, n)).astype(np.float32)
    style = rng.integers(0, 7)
    if style == 1:
        x = np.sort(x, axis=1)
    elif style == 2:
        x = -np.sort(-x, axis=1)
    elif style == 3:  # the best lie a fixed distance apart: all in few buckets
        x[:, :: int(rng.integers(2, 40))] += 5
    elif style == 4:
        x = rng.integers(0, 3, (rows, n)).astype(np.float32)
    elif style == 5:  # and in one place
        x[:, : n // 5] += 5
    elif style == 6:
        x[rng.random(x.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
    return x


@pytest.mark.nightly
def test_no_certificate_is_wrong_in_a_hundred_thousand_rows() -> None:
    rng = np.random.default_rng(7)
    seen = given_away = 0
    for _ in range(400):
        n, k = int(rng.integers(1, 400)), int(rng.integers(1, 40))
        x = hard_rows(rng, 250, n)
        buckets = Buckets(int(rng.integers(1, 60)), int(rng.integers(1, 9)))
        got = approximate_topk(x, k, buckets=buckets)
        right = (got.indices == topk(x, k).indices).all(axis=1)
        assert (right | ~got.certified).all(), (n, k, buckets)
        seen += len(x)
        given_away += int((~right).sum())
    assert seen == 100_000
    assert given_away > 10_000  # rows that lost something, and none of them was certified


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("k", "count", "kept", "n", "rows"),
    [
        (10, 448, 1, 4000, 6000), (10, 33, 2, 4000, 6000), (10, 7, 4, 4000, 6000),
        (100, 378, 2, 20_000, 400), (100, 77, 4, 20_000, 400), (100, 24, 8, 20_000, 400),
        (1000, 775, 4, 50_000, 60), (1000, 241, 8, 50_000, 60),
    ],
)  # fmt: skip
def test_recall_is_at_least_the_formulas_at_the_published_bucket_counts(
    k: int, count: int, kept: int, n: int, rows: int
) -> None:
    x = np.random.default_rng(k + count).standard_normal((rows, n), dtype=np.float32)
    got = approximate_topk(x, k, buckets=Buckets(count, kept)).indices
    wanted = topk(x, k).indices
    measured = np.mean([np.isin(got[b], wanted[b]).mean() for b in range(rows)])
    assert measured >= expected_recall(n, k, Buckets(count, kept)) - 0.002


def test_the_formula_agrees_with_the_published_bucket_counts() -> None:
    for k, count, kept in ((100, 378, 2), (100, 77, 4), (100, 24, 8), (10, 33, 2)):
        assert expected_recall(1_000_000, k, Buckets(count, kept)) == pytest.approx(0.99, abs=2e-3)


def test_a_plan_reaches_the_recall_it_promises() -> None:
    for n, k, recall in ((10_000, 10, 0.95), (10_000, 100, 0.99), (50, 40, 1.0)):
        assert expected_recall(n, k, plan(n, k, recall)) >= recall
    with pytest.raises(KernelError, match="recall"):
        plan(10, 1, 1.5)
