"""Which outcomes a sliding window still counts, bucket by bucket."""

from __future__ import annotations

import pytest

from tierline._core.windows import OutcomeWindow


@pytest.mark.parametrize("silent", [1, 2, 5, 9])
def test_of_an_outcome_a_second_those_older_than_ten_seconds_are_forgotten(silent: int) -> None:
    window = OutcomeWindow(10.0)
    for second in range(10):
        window.good(second + 0.5, slow=True)
        window.bad(second + 0.5)
    assert window.totals(9.5) == (10, 10, 10)
    left = 10 - silent
    assert window.totals(9.5 + silent) == (left, left, left)


def test_an_outcome_late_in_its_second_leaves_the_window_together_with_an_early_one() -> None:
    window = OutcomeWindow(10.0)
    window.good(0.0)
    window.good(0.95)
    assert window.totals(9.99) == (2, 0, 0)
    assert window.totals(10.0) == (0, 0, 0)


def test_an_answer_is_not_slow_unless_it_is_said_to_be() -> None:
    window = OutcomeWindow(10.0)
    window.good(1.0)
    window.good(1.0, slow=True)
    assert window.totals(1.0) == (2, 0, 1)
