"""Global time: nothing after the cut teaches, and every question is about what came next."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.data import Sequences, global_time
from tierline_cloud.data.ingest import parse_csv

EVENTS = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8), min_size=4, max_size=12
)


def _timed(users: list[list[tuple[int, int]]]) -> Sequences:
    rows = [sorted(user, key=lambda event: event[0]) for user in users]
    return Sequences.from_lists(
        [[item for _, item in row] for row in rows],
        n_items=9,
        times=[[float(time) for time, _ in row] for row in rows],
    )


@given(EVENTS, st.sampled_from(["first", "last"]))
def test_each_slot_asks_for_what_came_after_the_cut(
    users: list[list[tuple[int, int]]], which: Literal["first", "last"]
) -> None:
    data = _timed([*users, [(time, 1) for time in range(0, 41, 2)]])
    split = global_time(data, valid=0.2, test=0.2, target=which)
    assert data.times is not None
    for slot, start, end in (
        (split.valid, split.valid_from, split.test_from),
        (split.test, split.test_from, np.inf),
    ):
        expected = []
        for user in range(len(data)):
            times = data.times[data.offsets[user] : data.offsets[user + 1]]
            inside = np.flatnonzero((times >= start) & (times < end))
            if inside.size and (times < start).any():
                place = int(inside[0 if which == "first" else -1])
                row = data.of(user).tolist()
                expected.append((user, row[:place], row[place]))
        found = [
            (int(user), slot.history.of(i).tolist(), int(slot.target[i]))
            for i, user in enumerate(slot.users)
        ]
        assert found == expected


@given(EVENTS)
def test_nothing_of_the_future_is_trained_on(users: list[list[tuple[int, int]]]) -> None:
    data = _timed([*users, [(time, 1) for time in range(0, 41, 2)]])
    split = global_time(data, valid=0.2, test=0.2)
    assert split.train.times is not None
    assert split.train.times.max() < split.valid_from < split.test_from
    assert (split.train.lengths > 0).all()


def test_data_without_times_is_refused_with_the_other_split() -> None:
    with pytest.raises(ValueError, match="leave_one_out"):
        global_time(Sequences.from_lists([[1, 2, 3]], n_items=3))


def test_events_of_one_instant_cannot_be_split_by_time() -> None:
    data = Sequences.from_lists([[1, 2, 3]] * 5, n_items=3, times=[[7.0] * 3] * 5)
    with pytest.raises(ValueError, match="one instant"):
        global_time(data)


@pytest.mark.parametrize(("valid", "test"), [(0.0, 0.1), (0.5, 0.5), (-0.1, 0.2)])
def test_shares_that_leave_no_slot_are_refused(valid: float, test: float) -> None:
    data = Sequences.from_lists([[1, 2, 3]], n_items=3, times=[[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="positive"):
        global_time(data, valid=valid, test=test)


def test_times_are_read_from_files_that_have_them() -> None:
    data = parse_csv(["user,item,timestamp", "a,1,30", "b,2,5", "a,2,10.5"])
    assert data.times is not None
    assert data.times.tolist() == [10.5, 30.0, 5.0]
    assert [row.tolist() for row in data] == [[2, 1], [2]]


def test_times_follow_their_events_through_every_selection() -> None:
    data = Sequences.from_lists([[1, 2, 3], [2, 3]], n_items=3, times=[[1.0, 2.0, 3.0], [0.5, 0.5]])
    shorter = data.without_last(1).take(np.array([1, 0]))
    assert shorter.times is not None
    assert shorter.times.tolist() == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("times", [[[2.0, 1.0]], [[1.0]], [[1.0, float("nan")]]])
def test_times_that_fall_or_are_missing_are_refused(times: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="one time an event"):
        Sequences.from_lists([[1, 2]], n_items=2, times=times)
