"""The few best neighbours of every item: what they add to a network's scores, and to whose.

An item-kNN cut down to the pairs that matter most, each weight coded in one byte. An item's share
is its part of the neighbours' weights summed over a history's last events; what it gains over an
item that is no neighbour at all is ``weight · log(1 + share / floor)``, which is the cloud's
``weight · log(share + floor)`` less what every item has. A softmax of network and gain is the
normalised product of two distributions (Hinton's product of experts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

LEVELS: Final = 256  # weights that one byte can name
MOST: Final = 40  # neighbours of one item: what a recommendation looks up has a bound


class Boosts(NamedTuple):
    """What neighbours add for each of B histories: the history ``rows`` gives item ``ids`` the gain
    ``values``, sorted by both; history b's are from ``offsets[b]`` to ``offsets[b + 1]``. No gain
    is below 0, and every other item gains nothing."""

    rows: Ids
    ids: Ids
    values: Floats
    offsets: Ids  # [B + 1]

    def of(self, row: int) -> tuple[Ids, Floats]:
        """One history's items and gains."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.ids[part], self.values[part]

    def take(self, rows: Sequence[int]) -> Boosts:
        """Some of the histories, in the given order."""
        parts = [self.of(row) for row in rows]
        sizes = [ids.size for ids, _ in parts]
        return Boosts(
            np.repeat(np.arange(len(parts)), sizes),
            np.concatenate([self.ids[:0], *(ids for ids, _ in parts)]),
            np.concatenate([self.values[:0], *(values for _, values in parts)]),
            np.cumsum([0, *sizes]),
        )

    def at(self, row: int, wanted: NDArray[Any]) -> Floats:
        """What each of these items gains by one history: float32 [len(wanted)]."""
        ids, values = self.of(row)
        if not ids.size:
            return np.zeros(wanted.size, np.float32)
        places = np.searchsorted(ids, wanted)
        found = np.take(values, places, mode="clip")
        return np.where(np.take(ids, places, mode="clip") == wanted, found, np.float32(0))

    def add_to(self, scores: Floats) -> None:
        """Add to scores [B, items + 1] in place."""
        scores[self.rows, self.ids] += self.values  # a history names an item once


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourTable:
    """The neighbours of item i are ``ids`` from ``starts[i]`` to ``starts[i + 1]``, with the
    weights ``levels[codes]``. Raises ValueError for what is no such table."""

    starts: Ids  # [items + 2]; item 0 is padding and has none
    ids: NDArray[Any]  # uint16 or uint32 [pairs]
    codes: NDArray[np.uint8]  # [pairs]
    levels: Floats  # [LEVELS]
    weight: float
    decay: float
    window: int
    floor: float
    _heavy: NDArray[np.float64] = field(init=False, repr=False, compare=False)  # of each code
    _young: NDArray[np.float64] = field(init=False, repr=False, compare=False)  # of each age

    def __post_init__(self) -> None:
        items = self.starts.size - 2
        if self.starts[-1] != self.ids.size or self.ids.size != self.codes.size:
            raise ValueError(
                f"the counts add up to {self.starts[-1]}, and there are {self.ids.size} ids and "
                f"{self.codes.size} codes"
            )
        if self.starts[1]:
            raise ValueError("item 0 is padding: it has no neighbours")
        if self.ids.size and not 1 <= self.ids.min() <= self.ids.max() <= items:
            wrong = self.ids[(self.ids < 1) | (self.ids > items)][0]
            raise ValueError(f"a neighbour is item {wrong}; ids go from 1 to {items}")
        if not np.isfinite(self.levels).all() or (self.levels <= 0).any():
            raise ValueError("the levels must be finite numbers above 0")
        object.__setattr__(self, "_heavy", self.levels.astype(np.float64))
        object.__setattr__(self, "_young", self.decay ** np.arange(self.window))

    @classmethod
    def pruned(
        cls, starts: Ids, neighbours: Ids, weights: Floats, *, asked: NDArray[np.float64],
        pairs: int, **how: float,
    ) -> Self:  # fmt: skip
        """The ``pairs`` that explain most of a compressed table (``starts`` [items + 2]): of item
        i's neighbours those with the largest part of its weights, times how often i is ``asked``
        for [items + 1]; at most MOST an item, ties to the lowest ids. Weights are rounded to LEVELS
        steps of equal ratio. ``how`` are weight, decay, window and floor. Raises ValueError."""
        if pairs < 0:
            raise ValueError(f"the number of neighbours must not be negative, got {pairs}")
        owners = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        heaviest = np.lexsort((neighbours, -weights, owners))
        rank = np.empty(owners.size, np.int64)
        rank[heaviest] = np.arange(owners.size) - starts[owners[heaviest]]
        totals = np.bincount(owners, weights, minlength=starts.size - 1)
        worth = asked[owners] * weights / np.maximum(totals[owners], np.finfo(np.float64).tiny)
        worth[(rank >= MOST) | (weights <= 0) | (owners == 0)] = 0.0
        kept = np.sort(np.argsort(-worth, kind="stable")[: min(pairs, np.count_nonzero(worth))])
        wide = np.uint16 if starts.size - 2 <= np.iinfo(np.uint16).max else np.uint32
        levels = _levels(weights[kept])
        return cls(
            starts=np.searchsorted(owners[kept], np.arange(starts.size)),
            ids=neighbours[kept].astype(wide), codes=_nearest(levels, weights[kept]), levels=levels,
            weight=float(how["weight"]), decay=float(how["decay"]), window=int(how["window"]),
            floor=float(how["floor"]),
        )  # fmt: skip

    @property
    def counts(self) -> NDArray[np.uint8]:
        """How many neighbours each item has, padding first: what is stored of ``starts``."""
        return np.diff(self.starts).astype(np.uint8)

    @property
    def nbytes(self) -> int:
        """What is stored, without the files' headers."""
        return self.starts.size - 1 + self.ids.nbytes + self.codes.nbytes + self.levels.nbytes

    def boosts(self, histories: Sequence[NDArray[Any]]) -> Boosts:
        """For these histories, oldest first. What else is in the batch changes no bit: every sum
        is over one history's events, in their order."""
        recent = [history[-self.window :] for history in histories]
        lengths = np.array([each.size for each in recent], np.int64)
        events = np.concatenate([np.zeros(0, np.int64), *recent]).astype(np.int64, copy=False)
        rows = np.repeat(np.arange(lengths.size), lengths)
        ages = np.cumsum(lengths)[rows] - 1 - np.arange(events.size)
        begins = self.starts[events]
        counts = self.starts[events + 1] - begins
        ends = np.cumsum(counts)
        pairs = np.arange(ends[-1] if ends.size else 0) + np.repeat(begins - ends + counts, counts)
        weights = self._heavy[self.codes[pairs]] * np.repeat(self._young[ages], counts)
        keys = np.repeat(rows * (self.starts.size - 1), counts) + self.ids[pairs]
        return self._summed(keys, weights, lengths.size)

    def _summed(self, keys: Ids, weights: NDArray[np.float64], count: int) -> Boosts:
        """Keys are row · (items + 1) + item; several events may name one."""
        order = np.argsort(keys, kind="stable")
        keys, weights = keys[order], weights[order]
        first = np.ones(keys.size, np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        scores = np.bincount(np.cumsum(first) - 1, weights) if keys.size else weights
        rows, ids = np.divmod(keys[first], self.starts.size - 1)
        totals = np.bincount(rows, scores, minlength=count)
        # Of events so old that nothing is left of their weights, a share is 0 and no NaN.
        shares = scores / np.maximum(totals[rows], np.finfo(np.float64).tiny)
        gains = self.weight * np.log1p(shares / self.floor)
        offsets = np.searchsorted(rows, np.arange(count + 1))
        return Boosts(rows, ids, gains.astype(np.float32), offsets)


def starts_of(counts: NDArray[np.uint8]) -> Ids:
    """Where each item's neighbours begin, from how many it has."""
    starts = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _levels(weights: Floats) -> Floats:
    """LEVELS steps of equal ratio over all weights: a share is met by its logarithm."""
    if not weights.size:
        return np.ones(LEVELS, np.float32)
    return np.geomspace(float(weights.min()), float(weights.max()), LEVELS).astype(np.float32)


def _nearest(levels: Floats, weights: Floats) -> NDArray[np.uint8]:
    """The code of the level nearest in ratio."""
    span = float(np.log(levels[-1] / levels[0]))
    steps = np.zeros(weights.size) if span == 0 else np.log(weights / levels[0]) / span
    return np.rint(np.clip(steps, 0, 1) * (LEVELS - 1)).astype(np.uint8)
