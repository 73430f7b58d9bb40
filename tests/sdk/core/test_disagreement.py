"""How far a served list is from the cloud's, worked out by hand."""

from __future__ import annotations

from math import log2

import pytest

from tierline._core.shadow import disagreement

CLOUD = [5, 6, 7]
BEST = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)  # worth 3, 2 and 1, at the ranks 1, 2 and 3


@pytest.mark.parametrize(
    ("served", "gained"),
    [
        ([5, 6, 7], BEST),
        ([7, 6, 5], 1 / log2(2) + 2 / log2(3) + 3 / log2(4)),
        ([5, 8, 9], 3 / log2(2)),
        ([8, 9, 5], 3 / log2(4)),
        ([8, 9, 10], 0.0),
        ([5], 3 / log2(2)),
        ([8, 9, 10, 5, 6, 7], 0.0),  # only so many are compared as the cloud gave
    ],
)
def test_a_list_loses_what_its_items_are_not_worth_to_the_cloud_rank_by_rank(
    served: list[int], gained: float
) -> None:
    assert disagreement(served, CLOUD) == pytest.approx(1 - gained / BEST, abs=1e-12)


def test_the_item_numbered_zero_is_an_item() -> None:
    assert disagreement([0, 1], [0, 1]) == 0.0
    best = 2 / log2(2) + 1 / log2(3)
    assert disagreement([1, 9], [0, 1]) == pytest.approx(1 - 1 / log2(2) / best)
    assert disagreement([0, 9], [0, 1]) == pytest.approx(1 - 2 / log2(2) / best)


def test_what_is_past_the_end_of_a_list_is_worth_nothing() -> None:
    assert disagreement([4, -1, -1], [4, -1, -1]) == 0.0
    assert disagreement([-1, -1, 4], [4, -1, -1]) == pytest.approx(1 - 1 / log2(4))
    assert disagreement([-1, -1, -1], [4, -1, -1]) == 1.0


def test_where_the_cloud_has_nothing_to_say_nothing_is_lost() -> None:
    assert disagreement([4, 5], [-1, -1]) == 0.0
    assert disagreement([4, 5], []) == 0.0
