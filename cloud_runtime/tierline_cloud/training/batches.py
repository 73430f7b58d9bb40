"""Which users train together: equal lengths side by side, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tierline_cloud.data.sequences import Sequences, pad_left


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
