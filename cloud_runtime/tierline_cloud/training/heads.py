"""What a teacher would serve after every event of the training data: the best items, their shares.

Asked once, kept, and taught in every epoch: the teacher's answer does not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tierline_cloud.data.sequences import Ids, Sequences, pad_left
from tierline_cloud.models.blend import FLOOR, CloudModel
from tierline_cloud.models.left_out import LeftOut

HEAD = 64  # items of each answer; the others share what is left as one
TOGETHER = 64  # users asked at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Row r is the answer after event r of the training sequences: ``items`` int32 [events, H], the
    best first, and their ``shares`` float16, which sum to 1. Where the teacher reads no further
    back than its longest history, events before that have shares of 0."""

    items: NDArray[np.int32]
    shares: NDArray[np.float16]


def event_places(sequences: Sequences, length: int) -> Ids:
    """Where the items of ``pad_left`` stand in ``sequences.items``: int64 [users, length], −1 for
    padding."""
    places = sequences.offsets[1:, None] - length + np.arange(length)
    return np.where(places >= sequences.offsets[:-1, None], places, -1)


def ask_teacher(teacher: CloudModel, train: Sequences) -> Heads:
    """The teacher's head after every event of every user, over the items not seen until then.

    Its scores are divided by the sum of its experts' exponents: a product of experts, each of them
    right, would be that much too sure (Genest & Zidek 1986: logarithmic pools sum to 1). The
    neighbours answer as if the user had not been counted.
    """
    count = min(HEAD, train.n_items)
    items = np.zeros((train.items.size, count), np.int32)
    shares = np.zeros((train.items.size, count), np.float16)
    order = np.argsort(train.lengths, kind="stable")  # equal lengths together: little padding
    left_out = None
    if teacher.neighbours is not None and teacher.neighbours.weight:
        left_out = LeftOut(teacher.neighbours.knn, train)
    for start in range(0, order.size, TOGETHER):
        users = order[start : start + TOGETHER]
        places, scores = _scores(teacher, left_out, train, users)
        best = torch.softmax(scores, dim=1).topk(count, dim=1)
        items[places] = best.indices.numpy()
        shares[places] = (best.values / best.values.sum(dim=1, keepdim=True)).numpy()
    return Heads(items=items, shares=shares)


def seen_until(inputs: Tensor) -> Tensor:
    """int64 [B, L], left-padded with 0 → [B, L, L + 1]: what was seen at each place, and 0."""
    length = inputs.shape[1]
    until = torch.ones(length, length, dtype=torch.bool, device=inputs.device).tril()
    seen = torch.where(until, inputs[:, None, :], 0)
    return torch.nn.functional.pad(seen, (0, 1))


def _scores(
    teacher: CloudModel, left_out: LeftOut | None, train: Sequences, users: Ids
) -> tuple[Ids, Tensor]:
    """The events of these users that the teacher can answer after, and its scores there."""
    chosen = train.take(users)
    width = int(min(chosen.lengths.max(), teacher.network.config.max_history))
    inputs = torch.from_numpy(pad_left(chosen, width))
    real = inputs > 0
    with torch.no_grad():
        states = teacher.network.all_states(inputs)[real]
        scores = states @ teacher.network.table.T
    if left_out is not None and teacher.neighbours is not None:
        counted = np.concatenate([left_out.scores_along(row)[-width:] for row in chosen])
        found = torch.from_numpy(counted)
        share = found / found.sum(dim=1, keepdim=True).clamp_min(1e-12)
        scores += teacher.neighbours.weight * torch.log(share + FLOOR)
        scores /= 1.0 + teacher.neighbours.weight
    scores.scatter_(1, seen_until(inputs)[real], -torch.inf)
    starts = (train.offsets[users + 1] - np.minimum(chosen.lengths, width)).repeat(
        np.minimum(chosen.lengths, width)
    )
    ages = np.concatenate([np.arange(min(size, width)) for size in chosen.lengths])
    return starts + ages, scores
