"""Which events train, validate and test; which users teach, calibrate and judge the router."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tierline_cloud.data.sequences import Ids, Sequences

SHORTEST = 3  # one event to train on, one to validate, one to test


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Leave-one-out: train on s[:-2], validate s[-2] given s[:-2], test s[-1] given s[:-1]."""

    train: Sequences
    valid_target: Ids
    test_history: Sequences
    test_target: Ids
    left_out: int  # users with fewer than three events

    @property
    def valid_history(self) -> Sequences:
        return self.train


def leave_one_out(sequences: Sequences) -> Split:
    """Split every user with at least three events; the others are left out and counted."""
    users = np.flatnonzero(sequences.lengths >= SHORTEST)
    kept = sequences if users.size == len(sequences) else sequences.take(users)
    ends = kept.offsets[1:]
    return Split(
        train=kept.without_last(2),
        valid_target=kept.items[ends - 2],
        test_history=kept.without_last(1),
        test_target=kept.items[ends - 1],
        left_out=len(sequences) - users.size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserGroups:
    """Disjoint users of the test slot: the router learns on one group, its threshold is set on the
    second, and only the third is reported. (Valid and test slots are not exchangeable, so the
    split is by user on one slot.)"""

    router: Ids
    calibration: Ids
    report: Ids


def group_users(
    users: int, *, seed: int, router: float = 0.3, calibration: float = 0.2
) -> UserGroups:
    """Deal users out at random: the given shares, the rest is for the report."""
    order = np.random.default_rng([seed, 7]).permutation(users)
    first, second = int(users * router), int(users * (router + calibration))
    return UserGroups(
        router=np.sort(order[:first]),
        calibration=np.sort(order[first:second]),
        report=np.sort(order[second:]),
    )
