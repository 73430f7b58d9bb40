"""Users' item sequences as two flat arrays, and the left-padded rows models read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Every user's items, oldest first: user u's are ``items[offsets[u]:offsets[u + 1]]``.

    Ids are 1..n_items; 0 is padding and never an item. Raises ValueError when they are not.
    """

    items: Ids
    offsets: Ids
    n_items: int

    def __post_init__(self) -> None:
        if self.offsets.size < 1 or self.offsets[0] != 0 or self.offsets[-1] != self.items.size:
            raise ValueError("offsets must start at 0 and end at the number of events")
        if self.items.size and not (1 <= self.items.min() <= self.items.max() <= self.n_items):
            raise ValueError(f"item ids must lie in 1..{self.n_items}")

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | Ids], *, n_items: int) -> Sequences:
        """Pack one list of item ids per user."""
        rows = [np.asarray(row, np.int64) for row in lists]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([row.size for row in rows], out=offsets[1:])
        items = np.concatenate([*rows, np.zeros(0, np.int64)])
        return cls(items=items, offsets=offsets, n_items=n_items)

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
        return Sequences.from_lists((self.of(int(user)) for user in users), n_items=self.n_items)

    def without_last(self, count: int) -> Sequences:
        """Drop the last ``count`` events of every user; every user must have that many."""
        if self.lengths.size and self.lengths.min() < count:
            raise ValueError(f"a user has fewer than {count} events")
        place = np.arange(self.items.size) - np.repeat(self.offsets[:-1], self.lengths)
        keep = place < np.repeat(self.lengths - count, self.lengths)
        offsets = np.zeros_like(self.offsets)
        np.cumsum(self.lengths - count, out=offsets[1:])
        return Sequences(items=self.items[keep], offsets=offsets, n_items=self.n_items)

    def popularity(self) -> NDArray[np.float64]:
        """How often each item occurs: float64[n_items + 1], entry 0 is 0."""
        return np.bincount(self.items, minlength=self.n_items + 1).astype(np.float64)


def pad_left(sequences: Sequences, length: int) -> Ids:
    """The last ``length`` items of every user, left-padded with 0: int64[users, length]."""
    ends = sequences.offsets[1:, None]
    places = ends - length + np.arange(length)
    inside = places >= sequences.offsets[:-1, None]
    if not sequences.items.size:
        return np.zeros((len(sequences), length), np.int64)
    return np.where(inside, sequences.items[np.where(inside, places, 0)], 0)
