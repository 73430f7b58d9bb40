"""What an epoch teaches: batches of users, and the loss of a model on one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from tierline_cloud.data.sequences import Sequences
from tierline_cloud.models.network import Network
from tierline_cloud.training.batches import (
    NextItems,
    SingleEvents,
    epoch_batches,
    event_batches,
)
from tierline_cloud.training.config import EVENTS, TrainConfig
from tierline_cloud.training.loss import catalogue_cross_entropy


class Batch(Protocol):
    """Users that train together; ``weight`` is the number of examples a mean is taken over."""

    @property
    def weight(self) -> int: ...

    def part(self, rank: int, size: int) -> Self:
        """This rank's share; the shares of all ranks are the batch."""
        ...


class Lesson(Protocol):
    """The batches of an epoch, the same on every rank, and a model's mean loss on one of them."""

    def batches(
        self, max_history: int, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[Batch]: ...

    # Any: a lesson's loss takes the batches that the lesson itself makes.
    def loss(
        self, model: Network, batch: Any, *, products: torch.dtype = torch.float32
    ) -> Tensor: ...


class NextItem:
    """Every next item of every user, by cross-entropy over the whole catalogue."""

    def batches(
        self, max_history: int, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[NextItems]:
        return epoch_batches(
            train, max_history=max_history, batch=config.batch, seed=config.seed, epoch=epoch
        )

    def loss(
        self, model: Network, batch: NextItems, *, products: torch.dtype = torch.float32
    ) -> Tensor:
        """Always exact in float32: ``products`` is for listwise losses."""
        inputs = batch.inputs.to(model.table.device)
        targets = batch.targets.to(model.table.device)
        real = targets > 0
        states = model.all_states(inputs)[real]
        return catalogue_cross_entropy(states, model.table, targets[real])


class EachEvent:
    """Every event by itself, from the last state of what came before it, by cross-entropy over the
    whole catalogue. A step then has as many examples as ``batch`` says, of many users, and every
    one is asked as users are when served: of the newest event's place. That costs an encoding an
    event, where ``NextItem`` has one a user."""

    def batches(
        self, max_history: int, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[SingleEvents]:
        return event_batches(
            train, max_history=max_history, batch=config.batch, seed=config.seed, epoch=epoch
        )

    def loss(
        self, model: Network, batch: SingleEvents, *, products: torch.dtype = torch.float32
    ) -> Tensor:
        """Always exact in float32: ``products`` is for listwise losses."""
        device = model.table.device
        states = model.hidden(batch.inputs.to(device))
        return catalogue_cross_entropy(states, model.table, batch.targets.to(device))


def from_labels(config: TrainConfig) -> Lesson:
    """The lesson of a network that nobody teaches."""
    return EachEvent() if config.examples == EVENTS else NextItem()


class Taught(nn.Module):
    """A model with what it is taught: ``forward`` is the loss, as DDP wants it."""

    def __init__(
        self,
        model: Network,
        lesson: Lesson,
        *,
        precision: torch.dtype,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = model
        self._lesson, self._precision, self._products = lesson, precision, products

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of ``batch``; 0, with gradients of 0, for one without examples."""
        if not batch.weight:
            return torch.stack([value.sum() * 0.0 for value in self.model.parameters()]).sum()
        mixed = self._precision != torch.float32
        with torch.autocast(self.model.table.device.type, self._precision, enabled=mixed):
            return self._lesson.loss(self.model, batch, products=self._products)
