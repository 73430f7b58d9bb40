"""How likely an item is to be the next one, from its score: a temperature and a floor a tier.

chance = (1 − floor) · softmax(score / temperature) + floor / items. The floor is the share of
events that no score foresees: without it, they alone would set the temperature, and the best items'
chances would come out too small. Then the scores of both tiers mean the same and can share a list.
Fitted on users whom nothing else was fitted on, judged on others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.evaluation.pointwise import BINS, calibration_error
from tierline_cloud.evaluation.ranking import CHUNK, ScoreUsers, mask_seen

Floats = NDArray[np.float64]

LOG_GRID = np.linspace(-2.5, 2.5, 21)  # temperatures from .08 to 12
FLOORS = np.concatenate([[0.0], np.linspace(0.02, 0.98, 49)])
K = 10  # items a page shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """What turns a tier's scores into chances. ``floor`` 0 and ``temperature`` 1 is the plain
    softmax; neither changes the order of items."""

    temperature: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.temperature < float("inf") and 0 <= self.floor <= 1):
            raise ValueError(
                f"expected a temperature > 0 and a floor in [0, 1], got {self.temperature}, "
                f"{self.floor}"
            )

    def of(self, block: torch.Tensor) -> torch.Tensor:
        """Chances of scores [users, items] with −inf where an item cannot be next."""
        shares = torch.softmax(block / self.temperature, dim=1)
        possible = torch.isfinite(block)
        even = possible / possible.sum(dim=1, keepdim=True).clamp(min=1)
        return (1.0 - self.floor) * shares + self.floor * even


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far claimed chances are from what happens.

    ``nll`` is the mean −log chance of the target; ``ece_top1`` holds the best item's chance against
    how often it is the target, ``ece_top10`` the first ten's together (15 bins of equal mass);
    ``bins`` are (claimed, seen) of the ten's bins.
    """

    temperature: float
    floor: float
    users: int
    nll: float
    ece_top1: float
    ece_top10: float
    bins: tuple[tuple[float, float], ...]


def fit_chances(scores: ScoreUsers, histories: Sequences, targets: Ids, users: Ids) -> Chances:
    """argmin over temperature and floor of Σ −log chance(target) over these users, all items unseen
    by a user as classes. Sources: Guo et al. 2017 (arXiv 1706.04599) for the temperature; the floor
    is a mixture with the uniform distribution.

    Raises ValueError when no target of these users can be recommended.
    """
    logs: list[Floats] = []
    evens: list[Floats] = []
    for rows, block in _blocks(scores, histories, users):
        own = block.gather(1, torch.from_numpy(targets[rows])[:, None])[:, 0]
        known = torch.isfinite(own)
        own, block = own[known], block[known]
        scales = np.exp(-LOG_GRID).tolist()
        columns = [own * scale - torch.logsumexp(block * scale, dim=1) for scale in scales]
        logs.append(torch.stack(columns, dim=1).double().numpy())
        evens.append(1.0 / torch.isfinite(block).sum(dim=1).double().numpy())
    shares, even = np.exp(np.concatenate(logs)), np.concatenate(evens)[:, None]
    if not even.size:
        raise ValueError("no user's target can be recommended: there is nothing to calibrate on")
    losses = np.array(
        [-np.log((1 - w) * shares + w * even + 1e-300).mean(axis=0) for w in FLOORS.tolist()]
    )
    floor, _ = np.unravel_index(losses.argmin(), losses.shape)
    return Chances(temperature=float(np.exp(_lowest(losses[floor]))), floor=float(FLOORS[floor]))


def reliability(
    scores: ScoreUsers, histories: Sequences, targets: Ids, users: Ids, *, chances: Chances
) -> Reliability:
    """How true these users' chances are."""
    first: list[Floats] = []
    page: list[Floats] = []
    hits: list[Floats] = []
    losses: list[Floats] = []
    for rows, block in _blocks(scores, histories, users):
        wanted = torch.from_numpy(targets[rows])[:, None]
        claimed = chances.of(block)
        best, items = claimed.topk(min(K, claimed.shape[1]), dim=1)
        found = (items == wanted).numpy()
        first.append(best[:, 0].double().numpy().clip(0.0, 1.0))
        page.append(best.sum(dim=1).double().numpy().clip(0.0, 1.0))
        hits.append(np.stack([found[:, 0], found.any(axis=1)]).astype(np.float64))
        own = claimed.gather(1, wanted)[:, 0].double().numpy()
        losses.append(-np.log(own[own > 0]))
    hit = np.concatenate(hits, axis=1)
    claims = np.concatenate(page)
    return Reliability(
        temperature=chances.temperature,
        floor=chances.floor,
        users=int(users.size),
        nll=float(np.concatenate(losses).mean()),
        ece_top1=calibration_error(hit[0], np.concatenate(first)),
        ece_top10=calibration_error(hit[1], claims),
        bins=_bins(hit[1], claims),
    )


def _blocks(
    scores: ScoreUsers, histories: Sequences, users: Ids
) -> Iterator[tuple[Ids, torch.Tensor]]:
    """The users' scores, seen items at −inf, some hundred users at a time."""
    for start in range(0, users.size, CHUNK):
        rows = users[start : start + CHUNK]
        block = np.array(scores(rows), np.float32)
        mask_seen(block, histories, rows)
        yield rows, torch.from_numpy(block)


def _lowest(losses: Floats) -> float:
    """Where the curve through the lowest point and its neighbours is lowest; an end of the grid is
    taken as it is."""
    at = int(losses.argmin())
    if at in (0, losses.size - 1):
        return float(LOG_GRID[at])
    before, here, after = losses[at - 1 : at + 2]
    bend = before - 2 * here + after
    step = LOG_GRID[1] - LOG_GRID[0]
    return float(LOG_GRID[at] + (0.5 * step * (before - after) / bend if bend > 0 else 0.0))


def _bins(labels: Floats, claimed: Floats) -> tuple[tuple[float, float], ...]:
    order = np.argsort(claimed, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if part.size]
    return tuple((float(claimed[part].mean()), float(labels[part].mean())) for part in parts)
