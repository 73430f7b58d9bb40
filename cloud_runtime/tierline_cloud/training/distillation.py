"""Distillation: the edge learns the cloud's whole distribution, not only what came next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tierline_cloud.data.sequences import Ids, Sequences, pad_left
from tierline_cloud.models.blend import CloudModel
from tierline_cloud.models.network import Network
from tierline_cloud.training.config import TrainConfig
from tierline_serving.neighbours import NeighbourTable

WHOLE = 0.5  # share of users asked with their whole history: the cloud saw no answer to that


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Each user once an epoch, with the whole history or a random beginning of it. The loss is the
    cross-entropy of the student's distribution over unseen items under the teacher's, both at
    temperature 1 (Hinton et al., 2015). ``student`` is what neighbours add to the student's scores
    wherever it is served: its network then learns only what they cannot tell."""

    teacher: CloudModel
    student: NeighbourTable | None = None

    def batches(
        self, max_history: int, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[Beginnings]:
        rng = np.random.default_rng([config.seed, epoch])
        cuts = np.where(
            rng.random(len(train)) < WHOLE, train.lengths, rng.integers(1, train.lengths + 1)
        )
        # Equal lengths side by side, as in training: little of a batch is padding.
        ordered = np.lexsort((rng.random(len(train)), cuts))
        parts = np.array_split(ordered, max(1, len(train) // config.batch))
        for part in rng.permutation(len(parts)):
            users = parts[part]
            histories = _beginnings(train, users, cuts[users])
            yield Beginnings(histories, int(min(max_history, histories.lengths.max())))

    def loss(
        self, model: Network, batch: Beginnings, *, products: torch.dtype = torch.float32
    ) -> Tensor:
        """Always in float32: ``products`` is for listwise losses."""
        device = model.table.device
        ids = torch.from_numpy(pad_left(batch.histories, batch.length)).to(device)
        wanted = self.taught(batch.histories, ids)
        scores = model.hidden(ids) @ model.table.T
        if self.student is not None:
            found = self.student.boosts(list(batch.histories))
            rows, items, gains = (
                torch.from_numpy(part).to(device) for part in (found.rows, found.ids, found.values)
            )
            scores = scores.index_put((rows, items), gains, accumulate=True)
        said = torch.log_softmax(unseen(scores, ids), dim=1)
        return -(wanted * said).sum(dim=1).mean()

    def taught(self, histories: Sequences, ids: Tensor) -> Tensor:
        """The teacher's distribution [B, n_items + 1], always worked out in float32."""
        network = self.teacher.network.to(ids.device)
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            scores = network.hidden(ids) @ network.table.T
            if self.teacher.neighbours is not None:
                boosts = self.teacher.neighbours.boosts(histories, np.arange(len(histories)))
                scores += torch.from_numpy(boosts).to(ids.device)
            return torch.softmax(unseen(scores, ids), dim=1)


class Beginnings(NamedTuple):
    """Histories up to some instant, and the longest of the whole batch (at most max_history)."""

    histories: Sequences
    length: int

    @property
    def weight(self) -> int:
        return len(self.histories)

    def part(self, rank: int, size: int) -> Self:
        users = np.arange(rank, len(self.histories), size)
        return self._replace(histories=self.histories.take(users))


def unseen(scores: Tensor, ids: Tensor) -> Tensor:
    """What was seen, and padding, is out of the question for both."""
    # Finite: a weight of zero times minus infinity would be no number.
    return scores.scatter(1, ids, -1e9).index_fill(1, torch.tensor([0], device=ids.device), -1e9)


def _beginnings(train: Sequences, users: Ids, lengths: Ids) -> Sequences:
    """The first ``lengths`` events of these users."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - train.offsets[users], lengths)
    return Sequences(items=train.items[places], offsets=offsets, n_items=train.n_items)
