"""Which events train, validate and test; which users teach, calibrate and judge the router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tierline_cloud.data.sequences import Ids, Sequences

LEAVE_ONE_OUT, GLOBAL_TIME = SPLITS = ("leave-one-out", "global-time")
SHORTEST = 3  # one event to train on, one to validate, one to test


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What trains, and one question a user in each of two slots: what comes after the history?
    The users of the slots need not be the same; an item no training event shows stays in."""

    train: Sequences
    valid_history: Sequences
    valid_target: Ids
    test_history: Sequences
    test_target: Ids
    left_out: int  # users who are asked nothing in the test slot


def split_by(name: str, sequences: Sequences) -> Split:
    """The split of this name, one of SPLITS. Raises ValueError for another name, and for a global
    time split of data without times."""
    if name == LEAVE_ONE_OUT:
        return leave_one_out(sequences)
    if name == GLOBAL_TIME:
        return global_time(sequences).questions(len(sequences))
    raise ValueError(f"split {name!r} is none of {', '.join(SPLITS)}")


def leave_one_out(sequences: Sequences) -> Split:
    """Train on s[:-2], validate s[-2] given s[:-2], test s[-1] given s[:-1], for every user with at
    least three events; the others are left out and counted."""
    users = np.flatnonzero(sequences.lengths >= SHORTEST)
    kept = sequences if users.size == len(sequences) else sequences.take(users)
    ends, train = kept.offsets[1:], kept.without_last(2)
    return Split(
        train=train,
        valid_history=train,
        valid_target=kept.items[ends - 2],
        test_history=kept.without_last(1),
        test_target=kept.items[ends - 1],
        left_out=len(sequences) - users.size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One question a user: what comes after ``history``? ``users`` are rows of the original data;
    an item of ``target`` that no training event shows is cold, and stays in as a miss."""

    users: Ids
    history: Sequences
    target: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """Global time: train on all events before ``valid_from``, validate on what users do from there
    to ``test_from``, test on what they do after. No event of the future teaches anything."""

    train: Sequences  # users without an event before valid_from are left out
    valid: Slot
    test: Slot
    valid_from: float
    test_from: float

    def questions(self, users: int) -> Split:
        """The same as any split is asked, of data with ``users`` users."""
        return Split(
            train=self.train,
            valid_history=self.valid.history,
            valid_target=self.valid.target,
            test_history=self.test.history,
            test_target=self.test.target,
            left_out=users - self.test.users.size,
        )


def global_time(
    sequences: Sequences,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    target: Literal["first", "last"] = "first",
) -> TimeSplit:
    """Split at the instants before which 1 − valid − test and 1 − test of all events lie.

    A user is asked in a slot when an event of the slot follows an earlier one; the target is the
    ``first`` event of the slot, or the ``last`` with the slot's others added to the history.
    Raises ValueError for data without times and for shares that leave nothing to train on.
    Source: Time to Split (arXiv 2507.16289): leave-one-out lets the future teach the past.
    """
    if sequences.times is None:
        raise ValueError("a global time split needs timestamps: use leave_one_out for data without")
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise ValueError(f"valid and test must be positive and leave events: {valid}, {test}")
    times = sequences.times
    cuts = np.quantile(times, [1 - valid - test, 1 - test], method="lower")
    valid_from, test_from = float(cuts[0]), float(cuts[1])
    if not times.min() < valid_from < test_from:
        raise ValueError("too many events share one instant: the slots would be empty")
    train = sequences.keep(times < valid_from)
    return TimeSplit(
        train=train.take(np.flatnonzero(train.lengths)),
        valid=_slot(sequences, valid_from, test_from, target),
        test=_slot(sequences, test_from, np.inf, target),
        valid_from=valid_from,
        test_from=test_from,
    )


def _slot(sequences: Sequences, start: float, end: float, target: Literal["first", "last"]) -> Slot:
    assert sequences.times is not None
    until = sequences.keep(sequences.times < end)
    before = sequences.keep(sequences.times < start).lengths
    inside = until.lengths - before
    users = np.flatnonzero((before > 0) & (inside > 0))
    asked = until.take(users)
    places = asked.offsets[1:] - 1
    if target == "first":
        places = asked.offsets[:-1] + before[users]
    position = np.arange(asked.items.size)
    history = asked.keep(position < np.repeat(places, asked.lengths))
    return Slot(users=users, history=history, target=asked.items[places])


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
