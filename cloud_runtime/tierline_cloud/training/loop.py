"""Train one SASRec until validation stops improving, resumable after any epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tierline_cloud.data import Split, pad_left
from tierline_cloud.data.sequences import Sequences
from tierline_cloud.evaluation import factor_scores, rank_catalogue, ranking_metrics
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.training.batches import epoch_batches
from tierline_cloud.training.checkpoints import Progress, TrainState, load_state, save_state
from tierline_cloud.training.console import Tracker
from tierline_cloud.training.loss import catalogue_cross_entropy

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train. ``minutes`` bounds the training time across resumptions; None: no bound."""

    epochs: int = 120
    batch: int = 512  # users
    rate: float = 1e-3
    weight_decay: float = 1e-8
    evaluate_every: int = 5  # epochs
    patience: int = 3  # evaluations without improvement
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be positive or None, got {self.minutes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a run came to; ``history`` has loss, seconds and (when measured) ndcg@10 per epoch."""

    epochs: int
    best_epoch: int
    best_score: float
    seconds: float
    history: list[dict[str, float]]


class Lesson(Protocol):
    """What an epoch teaches: for each batch its mean loss, and over how many examples."""

    def losses(
        self, model: SASRec, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[tuple[Tensor, int]]: ...


class NextItem:
    """Every next item of every user, by cross-entropy over the whole catalogue."""

    def losses(
        self, model: SASRec, config: TrainConfig, train: Sequences, epoch: int
    ) -> Iterator[tuple[Tensor, int]]:
        batches = epoch_batches(
            train,
            max_history=model.config.max_history,
            batch=config.batch,
            seed=config.seed,
            epoch=epoch,
        )
        for inputs, targets in batches:
            real = targets > 0
            states = model.all_states(inputs)[real]
            loss = catalogue_cross_entropy(states, model.table, targets[real])
            yield loss, int(real.sum())


def train_sasrec(
    shape: SASRecConfig,
    config: TrainConfig,
    split: Split,
    *,
    checkpoint: Path,
    key: str,
    tracker: Tracker,
    lesson: Lesson | None = None,
    start: Mapping[str, Tensor] | None = None,
    clock: Clock = time.monotonic,
) -> tuple[SASRec, TrainReport]:
    """Train, or go on from ``checkpoint`` when it was written under ``key``. The model comes back
    with the weights that validated best (NDCG@10), in evaluation mode. The same seed gives the
    same weights, interrupted or not. ``lesson`` makes the batches and their loss (None: every next
    item, by cross-entropy); ``start`` are the weights to begin with (None: random ones)."""
    torch.manual_seed(config.seed)
    model = SASRec(shape)
    if start is not None:
        model.load_state_dict(start)
    lesson = lesson or NextItem()
    optimiser = torch.optim.Adam(
        model.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    state = TrainState(model=model, optimiser=optimiser, best={}, progress=Progress())
    load_state(checkpoint, state, key=key)
    while not state.progress.done:
        began = clock() - state.progress.elapsed
        _one_epoch(state, config, split, lesson)
        state.progress.elapsed = clock() - began
        _after_epoch(state, config, split)
        state.progress.elapsed = state.progress.history[-1]["seconds"] = clock() - began
        save_state(checkpoint, state, key=key)
        tracker.update(state.progress.epoch, _note(state))
    model.load_state_dict(state.best)
    return model.eval(), _report(state.progress)


def hidden_states(model: SASRec, histories: Sequences, *, chunk: int = 1024) -> NDArray[np.float32]:
    """The last state of every user: float32 [users, d]. The model must be in evaluation mode."""
    ids = torch.from_numpy(pad_left(histories, model.config.max_history))
    with torch.inference_mode():
        parts = [model.hidden(part) for part in torch.split(ids, chunk)]
        result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _one_epoch(state: TrainState, config: TrainConfig, split: Split, lesson: Lesson) -> None:
    """One pass over the users. Dropout is seeded by the epoch, so a resumed run repeats it."""
    model, progress = state.model, state.progress
    assert isinstance(model, SASRec)
    model.train()
    torch.manual_seed(config.seed * 1_000_003 + progress.epoch + 1)
    total, count = 0.0, 0
    for loss, weight in lesson.losses(model, config, split.train, progress.epoch):
        state.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert model.table.grad is not None
        model.table.grad[0] = 0.0  # padding stays zero
        state.optimiser.step()
        total += loss.item() * weight
        count += weight
    progress.epoch += 1
    progress.history.append({"epoch": progress.epoch, "loss": total / max(count, 1)})


def _after_epoch(state: TrainState, config: TrainConfig, split: Split) -> None:
    """Validate when it is time to, keep the best weights, and decide whether to stop."""
    progress = state.progress
    out_of_time = config.minutes is not None and progress.elapsed >= config.minutes * 60
    last = progress.epoch >= config.epochs or out_of_time
    if last or progress.epoch % config.evaluate_every == 0:
        score = _validate(state.model, split)
        progress.history[-1]["ndcg@10"] = score
        if score > progress.best_score:
            progress.best_score, progress.best_epoch = score, progress.epoch
            weights = state.model.state_dict()
            state.best = {name: value.detach().clone() for name, value in weights.items()}
    stale = progress.epoch - progress.best_epoch >= config.patience * config.evaluate_every
    progress.done = last or (progress.best_epoch > 0 and stale)


def _validate(model: torch.nn.Module, split: Split) -> float:
    assert isinstance(model, SASRec)
    model.eval()
    states = hidden_states(model, split.valid_history)
    scores = factor_scores(states, model.table.detach().numpy())
    ranking = rank_catalogue(scores, split.valid_history, split.valid_target)
    return ranking_metrics(ranking.ranks)["ndcg@10"]


def _note(state: TrainState) -> str:
    progress = state.progress
    entry = progress.history[-1]
    note = f"loss {entry['loss']:.4f}, {entry['seconds']:.0f} s"
    if progress.best_epoch:
        note += f", best valid NDCG@10 {progress.best_score:.4f} (epoch {progress.best_epoch})"
    return f"{note}, stopped" if progress.done else note


def _report(progress: Progress) -> TrainReport:
    return TrainReport(
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        best_score=progress.best_score,
        seconds=progress.elapsed,
        history=progress.history,
    )
