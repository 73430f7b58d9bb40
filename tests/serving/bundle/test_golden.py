"""Golden parity: what may differ passes, what may not is named with its size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st

from tierline import BadRequest, BundleRefused
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.bundle import Bundle
from tierline_serving.golden import (
    check_golden,
    compare,
    pack_replies,
    pack_requests,
    read_pairs,
)
from tierline_serving.scorer import ModelInfo

TOLERANCE = 1e-3


class Repeater:
    """A scorer that answers what it was told to, one reply after another."""

    def __init__(self, replies: Sequence[ScoreReply], refuses: str | None = None) -> None:
        self.info = ModelInfo(
            name="ranker", bundle="1@x", kind="sequence", tier="edge", engine="none", kernels="none"
        )
        self._replies = list(replies)
        self._refuses = refuses

    def validate(self, request: ScoreRequest) -> None:
        """Refuse where told to."""
        if self._refuses is not None:
            raise BadRequest(self._refuses)

    def rows(self, request: ScoreRequest) -> int:
        """Every request costs one row."""
        return 1

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """The next replies."""
        return [self._replies.pop(0) for _ in requests]

    def close(self) -> None:
        """Nothing to close."""


def ranking(scores: list[float], items: list[int]) -> ScoreReply:
    """A recommendation."""
    return ScoreReply(
        model="ranker",
        bundle="1@x",
        scores=np.array(scores, np.float32),
        items=np.array(items, np.int64),
    )


def test_golden_pairs_survive_storing() -> None:
    requests, replies = sample.golden_pairs()
    pairs = read_pairs(pack_requests(requests), pack_replies(replies))
    for (request, reply), asked, expected in zip(pairs, requests, replies, strict=True):
        assert (request.model, request.k) == (asked.model, asked.k)
        np.testing.assert_array_equal(request.query["history"], asked.query["history"])
        assert compare(reply, expected, 0.0) is None


@given(st.integers(0, 400))
def test_a_cut_golden_file_is_refused(length: int) -> None:
    requests, replies = sample.golden_pairs()
    whole = pack_requests(requests)
    with pytest.raises(BundleRefused, match="golden"):
        read_pairs(whole[: length % len(whole)], pack_replies(replies))


@given(st.binary(max_size=64))
def test_golden_files_of_nonsense_are_refused(noise: bytes) -> None:
    with pytest.raises(BundleRefused, match="golden"):
        read_pairs(noise, pack_replies(sample.golden_pairs()[1]))


def test_an_equal_scorer_passes(bundle: Bundle) -> None:
    check_golden(bundle, Repeater(sample.golden_pairs()[1]))


def test_a_bundle_without_golden_requests_passes(tmp_path: Path) -> None:
    check_golden(sample.write_tensor_bundle(tmp_path), Repeater([]))


def test_the_first_request_that_differs_is_named_with_the_difference(bundle: Bundle) -> None:
    first, second = sample.golden_pairs()[1]
    off = second._replace(scores=second.scores + np.float32(0.5))
    expected = r"golden request 1: score 0 is 3\.5, expected 3: they differ by 0\.5"
    with pytest.raises(BundleRefused, match=expected):
        check_golden(bundle, Repeater([first, off]))


def test_a_scorer_that_refuses_a_golden_request_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleRefused, match="golden request 0: BadRequest: no such history"):
        check_golden(bundle, Repeater([], refuses="no such history"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_differs(bad: float) -> None:
    difference = compare(ranking([bad, 1], [1, 2]), ranking([2, 1], [1, 2]), TOLERANCE)
    assert difference is not None
    assert "finite" in difference


def test_minus_infinity_is_expected_where_fewer_items_were_left() -> None:
    short = ranking([2, -np.inf], [1, -1])
    assert compare(short, short, TOLERANCE) is None
    assert compare(ranking([2, 1], [1, 2]), short, TOLERANCE) is not None


@pytest.mark.parametrize(
    ("got", "items", "passes"),
    [
        ([3, 2, 2], [1, 3, 2], True),  # a true tie may change places
        ([3, 2, 2], [2, 1, 3], False),  # no tie between 3 and 2
        ([3, 2, 2], [1, 2, 9], True),  # 9 tied with the last one that made it
        ([3, 2, 2], [9, 2, 3], False),  # 9 cannot have been first
        ([3, 2, 2], [1, 2, 2], False),  # twice the same
        ([3, 2, 2], [1, 2, -1], False),  # an item is missing
    ],
)
def test_items_may_change_places_only_in_ties(
    got: list[float], items: list[int], passes: bool
) -> None:
    difference = compare(ranking(got, items), ranking([3, 2, 2], [1, 2, 3]), TOLERANCE)
    assert (difference is None) is passes


@given(st.floats(-100, 100, width=32), st.floats(-1, 1, width=32))
def test_scores_differ_exactly_beyond_the_tolerance(score: float, change: float) -> None:
    want = ranking([score], [1])
    got = ranking([score + change], [1])
    gap = abs(float(got.scores[0]) - float(want.scores[0]))
    passes = gap <= TOLERANCE * max(1.0, abs(float(want.scores[0])))
    assert (compare(got, want, TOLERANCE) is None) is passes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "other"}, "answered for model 'other'"),
        ({"uncertainty": 0.9}, "uncertainty is 0.9, expected 0.2"),
        ({"uncertainty": None}, "uncertainty is None, expected 0.2"),
        ({"items": None}, "items only on one side"),
        ({"scores": np.zeros(2, np.float32)}, "answered 2 scores, expected 3"),
        ({"items": np.zeros(2, np.int64)}, "answered 2 items, expected 3"),
    ],
)
def test_every_other_difference_is_told(change: dict[str, Any], expected: str) -> None:
    golden = sample.golden_pairs()[1][1]
    changed = golden._replace(**change)
    assert expected in (compare(changed, golden, TOLERANCE) or "no difference")
