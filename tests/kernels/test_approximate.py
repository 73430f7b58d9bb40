"""The certificate is never wrong, uncertified rows fall back, and recall follows the formula."""

from __future__ import annotations

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


def test_the_formula_agrees_with_the_published_bucket_counts() -> None:
    for k, count, kept in ((100, 378, 2), (100, 77, 4), (100, 24, 8), (10, 33, 2)):
        assert expected_recall(1_000_000, k, Buckets(count, kept)) == pytest.approx(0.99, abs=2e-3)


def test_a_plan_reaches_the_recall_it_promises() -> None:
    for n, k, recall in ((10_000, 10, 0.95), (10_000, 100, 0.99), (50, 40, 1.0)):
        assert expected_recall(n, k, plan(n, k, recall)) >= recall
    with pytest.raises(KernelError, match="recall"):
        plan(10, 1, 1.5)
