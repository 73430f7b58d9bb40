"""Users' item sequences as two flat arrays, and the left-padded rows models read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Every user's items, oldest first: user u's are ``items[offsets[u]:offsets[u + 1]]``.

    Ids are 1..n_items; 0 is padding and never an item. ``times`` holds every event's instant, in
    whatever unit the data has, rising within a user; None where the data has none. Raises
    ValueError when any of this does not hold.
    """

    items: Ids
    offsets: Ids
    n_items: int
    times: Times | None = None

    def __post_init__(self) -> None:
        if self.offsets.size < 1 or self.offsets[0] != 0 or self.offsets[-1] != self.items.size:
            raise ValueError("offsets must start at 0 and end at the number of events")
        if self.items.size and not (1 <= self.items.min() <= self.items.max() <= self.n_items):
            raise ValueError(f"item ids must lie in 1..{self.n_items}")
        if self.times is not None and not self._times_rise(self.times):
            raise ValueError("there must be one time an event, rising within each user")

    def _times_rise(self, times: Times) -> bool:
        if times.shape != self.items.shape or np.isnan(times).any():
            return False
        falls = np.flatnonzero(times[1:] < times[:-1]) + 1
        return bool(np.isin(falls, self.offsets).all())  # only where the next user begins

    @classmethod
    def from_lists(
        cls,
        lists: Iterable[Sequence[int] | Ids],
        *,
        n_items: int,
        times: Iterable[Sequence[float] | Times] | None = None,
    ) -> Sequences:
        """Pack one list of item ids per user, and one of instants when given."""
        rows = [np.asarray(row, np.int64) for row in lists]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([row.size for row in rows], out=offsets[1:])
        items = np.concatenate([*rows, np.zeros(0, np.int64)])
        instants = None
        if times is not None:
            parts = [np.asarray(row, np.float64) for row in times]
            instants = np.concatenate([*parts, np.zeros(0)])
        return cls(items=items, offsets=offsets, n_items=n_items, times=instants)

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __iter__(self) -> Iterator[Ids]:
        for user in range(len(self)):
            yield self.of(user)

    def of(self, user: int) -> Ids:
        """One user's items, oldest first (a view)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> Ids:
        return np.diff(self.offsets)

    def take(self, users: Ids) -> Sequences:
        """These users only, in the given order."""
        bounds = [(int(self.offsets[user]), int(self.offsets[user + 1])) for user in users]
        times = self.times
        return Sequences.from_lists(
            (self.items[start:end] for start, end in bounds),
            n_items=self.n_items,
            times=None if times is None else [times[start:end] for start, end in bounds],
        )

    def without_last(self, count: int) -> Sequences:
        """Drop the last ``count`` events of every user; every user must have that many."""
        if self.lengths.size and self.lengths.min() < count:
            raise ValueError(f"a user has fewer than {count} events")
        place = np.arange(self.items.size) - np.repeat(self.offsets[:-1], self.lengths)
        return self.keep(place < np.repeat(self.lengths - count, self.lengths))

    def keep(self, chosen: NDArray[np.bool_]) -> Sequences:
        """The chosen events of every user (one truth an event); users without any stay, empty."""
        offsets = np.zeros_like(self.offsets)
        users = np.repeat(np.arange(len(self)), self.lengths)
        np.cumsum(np.bincount(users[chosen], minlength=len(self)), out=offsets[1:])
        return Sequences(
            items=self.items[chosen],
            offsets=offsets,
            n_items=self.n_items,
            times=None if self.times is None else self.times[chosen],
        )

    def popularity(self) -> NDArray[np.float64]:
        """How often each item occurs: float64[n_items + 1], entry 0 is 0."""
        return np.bincount(self.items, minlength=self.n_items + 1).astype(np.float64)


def pad_left(sequences: Sequences, length: int) -> Ids:
    """The last ``length`` items of every user, left-padded with 0: int64[users, length]."""
    return last_items(sequences.items, sequences.offsets[:-1], sequences.offsets[1:], length)


def last_items(items: Ids, starts: Ids, ends: Ids, length: int) -> Ids:
    """The last ``length`` of each stretch ``items[start:end]``, left-padded with 0:
    int64[stretches, length]."""
    places = ends[:, None] - length + np.arange(length)
    inside = places >= starts[:, None]
    if not items.size:
        return np.zeros(inside.shape, np.int64)
    return np.where(inside, items[np.where(inside, places, 0)], 0)
