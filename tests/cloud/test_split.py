"""Leave-one-out holds back the last two events; user groups never overlap."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.data import (
    Sequences,
    ShopConfig,
    generate_shop,
    group_users,
    leave_one_out,
    pad_left,
)

HISTORIES = st.lists(st.lists(st.integers(1, 30), max_size=9), min_size=1, max_size=12)


@given(HISTORIES)
def test_each_long_enough_user_trains_on_all_but_the_last_two(histories: list[list[int]]) -> None:
    split = leave_one_out(Sequences.from_lists(histories, n_items=30))
    kept = [items for items in histories if len(items) >= 3]
    assert [row.tolist() for row in split.train] == [items[:-2] for items in kept]
    assert split.valid_target.tolist() == [items[-2] for items in kept]
    assert [row.tolist() for row in split.test_history] == [items[:-1] for items in kept]
    assert split.test_target.tolist() == [items[-1] for items in kept]
    assert split.left_out == len(histories) - len(kept)


@given(HISTORIES, st.integers(1, 12))
def test_padding_keeps_the_newest_events_at_the_right(
    histories: list[list[int]], length: int
) -> None:
    rows = pad_left(Sequences.from_lists(histories, n_items=30), length)
    expected = [([0] * length + items)[-length:] for items in histories]
    assert rows.tolist() == expected


@given(st.integers(1, 500), st.integers(0, 5))
def test_every_user_is_in_exactly_one_group(users: int, seed: int) -> None:
    groups = group_users(users, seed=seed)
    together = np.concatenate([groups.router, groups.calibration, groups.report])
    assert sorted(together.tolist()) == list(range(users))


def test_the_same_seed_makes_the_same_shop_and_another_seed_another() -> None:
    config = {"users": 50, "items": 240}
    first, again = (generate_shop(ShopConfig(**config)) for _ in range(2))
    other = generate_shop(ShopConfig(**config, seed=1))
    assert first.items.tolist() == again.items.tolist()
    assert first.items.tolist() != other.items.tolist()
    assert first.lengths.min() >= 5
