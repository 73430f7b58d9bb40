"""Distillation after every event: a network learns its teacher's head, and what came next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tierline_cloud.data.sequences import Sequences, pad_left
from tierline_cloud.models.blend import CloudModel
from tierline_cloud.models.network import Network
from tierline_cloud.training.config import TrainConfig
from tierline_cloud.training.heads import Heads, ask_teacher, event_places, seen_until
from tierline_cloud.training.loss import listwise_cross_entropy


@dataclass(slots=True, kw_only=True)
class ListwiseDistillation:
    """After every event of every user, the cross-entropy of the student's distribution over unseen
    items under the teacher's head (Hinton et al. 2015; born-again networks: Furlanello et al.
    2018), of which ``label`` is given to the item that really came next."""

    teacher: CloudModel
    label: float = 0.0
    heads: Heads | None = field(default=None)

    def batches(
        self, max_history: int, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[Answered]:
        if self.heads is None:
            self.heads = ask_teacher(self.teacher, train)
        rng = np.random.default_rng([config.seed, epoch])
        # Equal lengths side by side, as in training: little of a batch is padding.
        ordered = np.lexsort((rng.random(len(train)), np.minimum(train.lengths, max_history)))
        parts = np.array_split(ordered, max(1, len(train) // config.batch))
        for part in rng.permutation(len(parts)):
            chosen = train.take(parts[part])
            width = int(min(max_history, chosen.lengths.max()))
            shift = train.offsets[parts[part]] - chosen.offsets[:-1]
            places = event_places(chosen, width)
            places = np.where(places < 0, -1, places + shift[:, None])
            yield Answered(torch.from_numpy(pad_left(chosen, width)), torch.from_numpy(places))

    def loss(
        self, model: Network, batch: Answered, *, products: torch.dtype = torch.float32
    ) -> Tensor:
        assert self.heads is not None  # the batches came from it
        device, real = model.table.device, batch.places >= 0
        places = batch.places[real].numpy()
        items = torch.from_numpy(self.heads.items[places].astype(np.int64)).to(device)
        shares = torch.from_numpy(self.heads.shares[places].astype(np.float32)).to(device)
        inputs = batch.inputs.to(device)
        seen = seen_until(inputs)[real.to(device)]
        if self.label:
            items, shares = self._with_labels(batch, items, shares, seen)
        states = model.all_states(inputs)[real.to(device)]
        return listwise_cross_entropy(states, model.table, items, shares, seen, products=products)

    def _with_labels(
        self, batch: Answered, items: Tensor, shares: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The item that came next, as one more of the head: but for the last, whose is held out,
        and for items seen before, which are never served again."""
        following = torch.nn.functional.pad(batch.inputs[:, 1:], (0, 1))[batch.places >= 0]
        following = following.to(items.device)
        known = (following > 0) & ~(seen == following[:, None]).any(dim=1)
        given = (self.label * known).to(shares.dtype)[:, None]
        return (
            torch.cat((items, following[:, None]), dim=1),
            torch.cat((shares * (1.0 - given), given), dim=1),
        )


class Answered(NamedTuple):
    """Users' histories int64 [B, L], left-padded with 0, and where each of their events stands in
    the training data, −1 for padding."""

    inputs: Tensor
    places: Tensor

    @property
    def weight(self) -> int:
        return int((self.places >= 0).sum())

    def part(self, rank: int, size: int) -> Self:
        return self._replace(inputs=self.inputs[rank::size], places=self.places[rank::size])
