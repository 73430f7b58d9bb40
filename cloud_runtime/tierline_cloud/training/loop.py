"""Train one network until validation stops improving, resumable after any epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tierline import ConfigurationError
from tierline_cloud.data import Split, pad_left
from tierline_cloud.data.sequences import Sequences
from tierline_cloud.evaluation import factor_scores, rank_catalogue, ranking_metrics
from tierline_cloud.models.ensemble import Ensemble
from tierline_cloud.models.near import boosted
from tierline_cloud.models.network import Network, Shape, build
from tierline_cloud.training.checkpoints import Progress, TrainState, load_state, save_state
from tierline_cloud.training.config import PRECISIONS, TrainConfig
from tierline_cloud.training.console import Tracker
from tierline_cloud.training.lessons import Lesson, Taught, from_labels
from tierline_cloud.training.world import SOLO, World
from tierline_serving.neighbours import NeighbourTable

Clock = Callable[[], float]
RANK_STRIDE = 7_368_787  # a prime far from the seeds' own


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a run came to; ``history`` has loss, seconds and (when measured) ndcg@10 per epoch."""

    epochs: int
    best_epoch: int
    best_score: float
    seconds: float
    history: list[dict[str, float]]


def train_network(
    shape: Shape,
    config: TrainConfig,
    split: Split,
    *,
    checkpoint: Path,
    key: str,
    tracker: Tracker,
    lesson: Lesson | None = None,
    start: Mapping[str, Tensor] | None = None,
    neighbours: NeighbourTable | None = None,
    world: World = SOLO,
    clock: Clock = time.monotonic,
) -> tuple[Network, TrainReport]:
    """Train, or go on from ``checkpoint`` when it was written under ``key``. The model comes back
    with the weights that validated best (NDCG@10), on the CPU and in evaluation mode, on every
    rank of ``world``. The same seed gives the same weights, interrupted or not. ``lesson`` makes
    the batches and their loss (None: from labels, as ``config.examples`` says); ``start`` are the
    weights to begin with (None: random ones); ``neighbours`` add to its scores in validation.
    Raises ConfigurationError for a precision the device lacks.
    """
    _check_precision(config, world)
    torch.manual_seed(config.seed)
    model = build(shape)
    if start is not None:
        model.load_state_dict(start)
    model.to(world.device)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    state = TrainState(model=model, optimiser=optimiser, best={}, progress=Progress())
    load_state(checkpoint, state, key=key)
    chosen = lesson or from_labels(config)
    taught = world.averaging(_taught(model, chosen, config, world))
    while not state.progress.done:
        began = clock() - state.progress.elapsed
        _one_epoch(state, config, split, chosen, taught, world)
        state.progress.elapsed = clock() - began
        _after_epoch(state, config, partial(_validate, split, neighbours), world)
        state.progress.elapsed = state.progress.history[-1]["seconds"] = clock() - began
        if world.is_writer:
            save_state(checkpoint, state, key=key)
        tracker.update(state.progress.epoch, _note(state))
    model.load_state_dict(state.best)
    return model.cpu().eval(), _report(state.progress)


def _taught(model: Network, lesson: Lesson, config: TrainConfig, world: World) -> Taught:
    return Taught(
        model,
        lesson,
        precision=PRECISIONS[config.precision],
        products=config.products_on(world.device),
    )


def _check_precision(config: TrainConfig, world: World) -> None:
    if config.precision != "float32" and world.device.type != "cuda":
        raise ConfigurationError(
            f"precision {config.precision} needs a CUDA device, this run trains on "
            f"{world.device.type}: take float32"
        )


def hidden_states(
    model: Network | Ensemble, histories: Sequences, *, chunk: int = 1024
) -> NDArray[np.float32]:
    """The last state of every user: float32 [users, d]. The model must be in evaluation mode."""
    ids = torch.from_numpy(pad_left(histories, model.config.max_history))
    device = model.table.device
    with torch.inference_mode():
        parts = [model.hidden(part.to(device)).cpu() for part in torch.split(ids, chunk)]
        result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _one_epoch(
    state: TrainState,
    config: TrainConfig,
    split: Split,
    lesson: Lesson,
    taught: nn.Module,
    world: World,
) -> None:
    """One pass over the users. Dropout is seeded by the epoch, so a resumed run repeats it, and by
    the rank, so that no two ranks drop the same."""
    model, progress = state.model, state.progress
    assert isinstance(model, Network)
    taught.train()
    torch.manual_seed(config.seed * 1_000_003 + progress.epoch + 1 + world.rank * RANK_STRIDE)
    for group in state.optimiser.param_groups:
        group["lr"] = config.rate_in(progress.epoch)
    total, count = 0.0, 0
    for batch in lesson.batches(model.config.max_history, config, split.train, progress.epoch):
        share = batch if world.size == 1 else batch.part(world.rank, world.size)
        loss, weight = taught(share), share.weight
        total += loss.item() * weight
        count += weight
        state.optimiser.zero_grad()
        if world.size > 1:
            # DDP averages over ranks; what is wanted is the average over examples.
            loss = loss * (world.size * weight / max(batch.weight, 1))
        loss.backward()
        assert model.table.grad is not None
        model.table.grad[0] = 0.0  # padding stays zero
        state.optimiser.step()
    progress.epoch += 1
    total, seen = world.total([total, count])
    progress.history.append({"epoch": progress.epoch, "loss": total / max(seen, 1)})


def _after_epoch(
    state: TrainState, config: TrainConfig, judge: Callable[[nn.Module], float], world: World
) -> None:
    """Validate when it is time to, keep the best weights, and decide whether to stop."""
    progress = state.progress
    (elapsed,) = world.share([progress.elapsed])
    out_of_time = config.minutes is not None and elapsed >= config.minutes * 60
    last = progress.epoch >= config.epochs or out_of_time
    if last or progress.epoch % config.evaluate_every == 0:
        (score,) = world.share([judge(state.model) if world.is_writer else 0.0])
        progress.history[-1]["ndcg@10"] = score
        if score > progress.best_score:
            progress.best_score, progress.best_epoch = score, progress.epoch
            weights = state.model.state_dict()
            state.best = {name: value.detach().clone() for name, value in weights.items()}
    stale = progress.epoch - progress.best_epoch >= config.patience * config.evaluate_every
    progress.done = last or (progress.best_epoch > 0 and stale)


def _validate(split: Split, neighbours: NeighbourTable | None, model: nn.Module) -> float:
    assert isinstance(model, Network)
    model.eval()
    states = hidden_states(model, split.valid_history)
    scores = factor_scores(states, model.table.detach().cpu().numpy())
    served = boosted(scores, split.valid_history, neighbours)
    ranking = rank_catalogue(served, split.valid_history, split.valid_target)
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
