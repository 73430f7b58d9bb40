"""What trains together: equal lengths side by side, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tierline_cloud.data.sequences import Sequences, last_items, pad_left

SORTED = 16  # batches of single events whose lengths are sorted among each other


class NextItems(NamedTuple):
    """Inputs and what follows each of them, int64 [B, L] both, 0 where padded."""

    inputs: Tensor
    targets: Tensor

    @property
    def weight(self) -> int:
        """How many items there are to foretell."""
        return int((self.targets > 0).sum())

    def part(self, rank: int, size: int) -> Self:
        """Every ``size``-th row from ``rank`` on."""
        return self._replace(inputs=self.inputs[rank::size], targets=self.targets[rank::size])


class SingleEvents(NamedTuple):
    """What came before an event, int64 [B, L], left-padded with 0, and its item, int64 [B]."""

    inputs: Tensor
    targets: Tensor

    @property
    def weight(self) -> int:
        """How many items there are to foretell."""
        return len(self.targets)

    def part(self, rank: int, size: int) -> Self:
        """Every ``size``-th row from ``rank`` on."""
        return self._replace(inputs=self.inputs[rank::size], targets=self.targets[rank::size])


def event_batches(
    train: Sequences, *, max_history: int, batch: int, seed: int, epoch: int
) -> Iterator[SingleEvents]:
    """Every event but each user's first once an epoch, with what came before it, in an order that
    (seed, epoch) fixes: any events may meet in a batch, those of SORTED batches by their length."""
    rng = np.random.default_rng([seed, epoch])
    starts = np.repeat(train.offsets[:-1], train.lengths)
    targets = np.flatnonzero(np.arange(train.items.size) > starts)
    starts = starts[targets]
    lengths = np.minimum(targets - starts, max_history)
    order = rng.permutation(targets.size)
    for begin in range(0, order.size, batch * SORTED):
        group = order[begin : begin + batch * SORTED]
        group = group[np.argsort(lengths[group], kind="stable")]
        parts = [group[first : first + batch] for first in range(0, group.size, batch)]
        for number in rng.permutation(len(parts)):
            part = parts[number]
            width = int(lengths[part].max())
            inputs = last_items(train.items, starts[part], targets[part], width)
            wanted = train.items[targets[part]]
            yield SingleEvents(torch.from_numpy(inputs), torch.from_numpy(wanted))


def epoch_batches(
    train: Sequences, *, max_history: int, batch: int, seed: int, epoch: int
) -> Iterator[NextItems]:
    """Every user with two events or more once an epoch, in an order that (seed, epoch) fixes."""
    rng = np.random.default_rng([seed, epoch])
    users = np.flatnonzero(train.lengths >= 2)
    lengths = np.minimum(train.lengths[users] - 1, max_history)
    ordered = users[np.lexsort((rng.random(users.size), lengths))]
    parts = [ordered[start : start + batch] for start in range(0, ordered.size, batch)]
    for part in rng.permutation(len(parts)):
        chosen = train.take(parts[part])
        width = int(min(chosen.lengths.max() - 1, max_history)) + 1
        rows = torch.from_numpy(pad_left(chosen, width))
        inputs, targets = rows[:, :-1], rows[:, 1:]
        yield NextItems(inputs, torch.where(inputs > 0, targets, 0))
