"""Every size of batch is scored before the first caller comes."""

from __future__ import annotations

import pytest
from fake_scorer import POISON, FakeScorer, PoisonError, a_request
from hypothesis import given
from hypothesis import strategies as st

from tierline import BadRequest
from tierline_serving.batching import BatchLimits
from tierline_serving.warming import BUCKETS, batches, warm


@given(rows=st.integers(1, 5000), most=st.integers(1, 5000), requests=st.integers(1, 100))
def test_batches_grow_from_one_request_to_the_largest_batch(
    rows: int, most: int, requests: int
) -> None:
    copies = batches(rows, limits(most, requests))
    assert copies == sorted(set(copies))
    assert copies[0] >= 1
    assert copies[-1] == max(1, min(most // rows, requests))


def test_a_request_of_one_row_is_scored_in_every_bucket() -> None:
    scorer = FakeScorer()
    assert warm(scorer, a_request(5), limits(2048, 2048)) == len(BUCKETS)
    assert [len(batch) for batch in scorer.batches] == list(BUCKETS)


def test_no_batch_is_tried_that_traffic_never_makes() -> None:
    scorer = FakeScorer()
    warm(scorer, a_request(5), BatchLimits())
    assert [len(batch) for batch in scorer.batches] == [1, 8, 32, 64]


def test_a_request_that_is_not_valid_warms_nothing() -> None:
    scorer = FakeScorer()
    with pytest.raises(BadRequest):
        warm(scorer, a_request(), limits(64, 64))
    assert scorer.batches == []


def test_a_model_that_fails_on_the_request_says_so() -> None:
    with pytest.raises(PoisonError):
        warm(FakeScorer(), a_request(POISON), limits(64, 64))


def limits(rows: int, requests: int) -> BatchLimits:
    return BatchLimits(max_batch_rows=rows, max_batch_requests=requests)
