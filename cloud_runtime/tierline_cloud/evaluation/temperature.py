"""One temperature a tier, so that softmax(score / T) is the chance that an item is the next one.

Then the scores of both tiers mean the same and can share a list. Fitted on users whom nothing else
was fitted on, judged on others.
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
K = 10  # items a page shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far claimed chances are from what happens, at one temperature.

    ``nll`` is the mean −log chance of the target; ``ece_top1`` holds the best item's chance against
    how often it is the target, ``ece_top10`` the first ten's together (15 bins of equal mass);
    ``bins`` are (claimed, seen) of the ten's bins.
    """

    temperature: float
    users: int
    nll: float
    ece_top1: float
    ece_top10: float
    bins: tuple[tuple[float, float], ...]


def fit_temperature(scores: ScoreUsers, histories: Sequences, targets: Ids, users: Ids) -> float:
    """argmin_T Σ −log softmax(z/T)_target over these users, all items unseen by a user in the
    softmax. Source: Guo et al. 2017 (arXiv 1706.04599), here with the catalogue as classes.

    Raises ValueError when no target of these users can be recommended.
    """
    losses, counted = np.zeros(LOG_GRID.size), 0
    for rows, block in _blocks(scores, histories, users):
        own = block.gather(1, torch.from_numpy(targets[rows])[:, None])[:, 0]
        known = torch.isfinite(own)
        own, block = own[known], block[known]
        counted += int(own.numel())
        for i, log_t in enumerate(LOG_GRID.tolist()):
            scale = float(np.exp(-log_t))
            whole = torch.logsumexp(block * scale, dim=1)
            losses[i] += float((whole - own * scale).sum())
    if not counted:
        raise ValueError("no user's target can be recommended: there is nothing to calibrate on")
    return float(np.exp(_lowest(losses / counted)))


def reliability(
    scores: ScoreUsers, histories: Sequences, targets: Ids, users: Ids, *, temperature: float
) -> Reliability:
    """How calibrated these users' scores are at this temperature."""
    first: list[Floats] = []
    page: list[Floats] = []
    hits: list[Floats] = []
    losses: list[Floats] = []
    for rows, block in _blocks(scores, histories, users):
        wanted = torch.from_numpy(targets[rows])[:, None]
        chances = torch.softmax(block / temperature, dim=1)
        best, items = chances.topk(min(K, chances.shape[1]), dim=1)
        found = (items == wanted).numpy()
        first.append(best[:, 0].double().numpy())
        page.append(best.sum(dim=1).double().numpy().clip(0.0, 1.0))
        hits.append(np.stack([found[:, 0], found.any(axis=1)]).astype(np.float64))
        own = torch.log_softmax(block / temperature, dim=1).gather(1, wanted)[:, 0]
        losses.append(-own[torch.isfinite(own)].double().numpy())
    hit = np.concatenate(hits, axis=1)
    claimed = np.concatenate(page)
    return Reliability(
        temperature=temperature,
        users=int(users.size),
        nll=float(np.concatenate(losses).mean()),
        ece_top1=calibration_error(hit[0], np.concatenate(first)),
        ece_top10=calibration_error(hit[1], claimed),
        bins=_bins(hit[1], claimed),
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
