"""Train a click model by binary cross-entropy until validation stops improving; then calibrate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tierline_cloud.data.clicks import Clicks
from tierline_cloud.evaluation import log_loss
from tierline_cloud.models.ctr import ClickConfig, ClickModel, squeezed
from tierline_cloud.training.config import TrainConfig
from tierline_cloud.training.console import Tracker

PLATT_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickReport:
    """How a training went: validation log loss by epoch, and the epoch whose weights were kept."""

    best_epoch: int
    valid_log_loss: list[float]
    slope: float
    shift: float


def train_clicks(
    shape: ClickConfig, config: TrainConfig, train: Clicks, valid: Clicks, tracker: Tracker
) -> tuple[ClickModel, ClickReport]:
    """Each epoch sees every impression once; the best validated weights come back, calibrated on
    ``valid`` and in evaluation mode. ``config.batch`` counts impressions. The same seed gives the
    same weights."""
    torch.manual_seed(config.seed)
    model = ClickModel(shape)
    _standardise(model, train)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    losses: list[float] = []
    best, kept = float("inf"), model.state_dict()
    for epoch in range(config.epochs):
        _one_epoch(model, optimiser, train, config, epoch)
        losses.append(log_loss(valid.labels, probabilities(model, valid)))
        tracker.update(epoch + 1, f"valid log loss {losses[-1]:.4f}")
        if losses[-1] < best:
            best = losses[-1]
            kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if epoch + 1 - (int(np.argmin(losses)) + 1) >= config.patience:
            break
    model.load_state_dict(kept)
    slope, shift = calibrate(model.eval(), valid)
    return model, ClickReport(
        best_epoch=int(np.argmin(losses)) + 1, valid_log_loss=losses, slope=slope, shift=shift
    )


def probabilities(model: ClickModel, clicks: Clicks, *, chunk: int = 8192) -> NDArray[np.float64]:
    """The model's probability of every impression, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(*_inputs(clicks.part(start, start + chunk)))
            for start in range(0, len(clicks), chunk)
        ]
        result: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return result


def calibrate(model: ClickModel, valid: Clicks) -> tuple[float, float]:
    """Slope and shift of the logits that make ``valid`` likeliest (L-BFGS); set in the model."""
    with torch.inference_mode():
        logits = model.logits(*_inputs(valid)).double()
    logits = logits.clone()  # out of inference mode
    labels = torch.from_numpy(valid.labels)
    fit = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([fit], max_iter=PLATT_STEPS, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(fit[0] * logits + fit[1], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(step)  # type: ignore[no-untyped-call]
    slope, shift = fit.detach().tolist()
    model.slope, model.shift = torch.tensor(slope).float(), torch.tensor(shift).float()
    return slope, shift


def _one_epoch(
    model: ClickModel, optimiser: torch.optim.Adam, train: Clicks, config: TrainConfig, epoch: int
) -> None:
    model.train()
    torch.manual_seed(config.seed * 1_000_003 + epoch + 1)
    order = torch.randperm(len(train))
    dense, sparse = _inputs(train)
    labels = torch.from_numpy(train.labels).float()
    for rows in torch.split(order, config.batch):
        optimiser.zero_grad()
        logits = model.logits(dense[rows], sparse[rows])
        loss = functional.binary_cross_entropy_with_logits(logits, labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _inputs(clicks: Clicks) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(clicks.dense), torch.from_numpy(clicks.sparse)


def _standardise(model: ClickModel, train: Clicks) -> None:
    """Mean and spread of what is there; a feature that is always missing or constant stays 0."""
    if not model.config.dense:
        return
    values = squeezed(torch.from_numpy(train.dense)).double().numpy()
    present = ~np.isnan(values)
    count = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, values, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(present, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    model.mean = torch.from_numpy(mean).float()
    model.spread = torch.from_numpy(np.where(spread > 0, spread, 1.0)).float()
