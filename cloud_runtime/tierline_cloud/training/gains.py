"""How much an edge's neighbours have to say: what explains the teacher best beside its network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tierline_cloud.data.sequences import Sequences, pad_left
from tierline_cloud.models.network import Network
from tierline_cloud.training.config import TrainConfig
from tierline_cloud.training.distillation import Beginnings, Distillation, unseen
from tierline_serving.neighbours import NeighbourTable

BATCHES = 8  # of the lesson: two numbers need no more
STEPS = 60  # of L-BFGS at most
HEAVIEST = 10.0  # weights lie below it
LOWEST = np.log(1e-6)  # floors lie between it and 1
WEIGHT, FLOOR = 1.0, 1e-3  # where the search begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The weight and floor found, and the lesson's loss with and without the neighbours, less what
    no student can change."""

    weight: float
    floor: float
    loss: float
    loss_without: float


def fit_gains(
    lesson: Distillation, model: Network, table: NeighbourTable, train: Sequences,
    config: TrainConfig,
) -> Fitted:  # fmt: skip
    """Choose weight and floor of ``table`` by the loss that ``model`` is then taught with, its
    network as it is before the lesson. Only shares count, so the table's own two do not matter."""
    bare, model = replace(table, weight=1.0, floor=1.0), model.eval()
    batches = islice(lesson.batches(model.config.max_history, config, train, 0), BATCHES)
    asked = [_ask(lesson, model, bare, batch) for batch in batches]
    # Both are held inside their bounds by a sigmoid, so that no step of the search leaves them.
    begin = (_logit(WEIGHT / HEAVIEST), _logit(1.0 - np.log(FLOOR) / LOWEST))
    inner = torch.tensor(begin, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([inner], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = _loss(asked, *_outer(inner))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        weight, floor = _outer(inner)
        return Fitted(
            weight=float(weight),
            floor=float(floor),
            loss=float(_loss(asked, weight, floor)),
            loss_without=float(_loss(asked, weight * 0.0, floor)),
        )


class _Asked(NamedTuple):
    """One batch: the log-sum of the unseen items that gain nothing [B]; and, for each that gains,
    its row, score, share and chance by the teacher."""

    rest: Tensor
    rows: Tensor
    scores: Tensor
    shares: Tensor
    wanted: Tensor


def _ask(lesson: Distillation, model: Network, bare: NeighbourTable, batch: Beginnings) -> _Asked:
    ids = torch.from_numpy(pad_left(batch.histories, batch.length))
    found = bare.boosts(list(batch.histories))
    rows, items = torch.from_numpy(found.rows), torch.from_numpy(found.ids)
    with torch.no_grad():
        wanted = lesson.taught(batch.histories, ids)
        scores = unseen(model.hidden(ids) @ model.table.T, ids).double()
        fresh = ~(ids[rows] == items[:, None]).any(dim=1)
        rows, items = rows[fresh], items[fresh]
        shares = torch.from_numpy(np.expm1(found.values.astype(np.float64)))[fresh]
        rest = torch.logsumexp(scores.index_put((rows, items), torch.tensor(-1e9).double()), dim=1)
        return _Asked(rest, rows, scores[rows, items], shares, wanted[rows, items].double())


def _loss(asked: list[_Asked], weight: Tensor, floor: Tensor) -> Tensor:
    """The cross-entropy a row, less the part that weight and floor do not touch."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for part in asked:
        gains = weight * torch.log1p(part.shares / floor)
        # The largest term of each row keeps the sum of exponentials finite.
        top = part.rest.scatter_reduce(0, part.rows, (part.scores + gains).detach(), "amax")
        sums = torch.exp(part.rest - top).index_add(
            0, part.rows, torch.exp(part.scores + gains - top[part.rows])
        )
        total = total + (top + torch.log(sums)).sum() - (part.wanted * gains).sum()
        count += len(part.rest)
    return total / max(count, 1)


def _outer(inner: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and floor of the search's two numbers."""
    weight, depth = torch.sigmoid(inner)
    return HEAVIEST * weight, torch.exp(LOWEST * (1.0 - depth))


def _logit(share: float) -> float:
    return float(np.log(share / (1.0 - share)))
