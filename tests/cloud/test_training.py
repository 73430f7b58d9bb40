"""The loss is exact, batches cover every user once, a resumed run equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tierline_cloud.data import Split
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.training import TrainConfig, TrainReport, loss, train_network
from tierline_cloud.training.batches import epoch_batches, event_batches
from tierline_cloud.training.checkpoints import CheckpointError
from tierline_cloud.training.lessons import from_labels

TRAINING = TrainConfig(epochs=4, batch=64, evaluate_every=2)


class _Silent:
    def update(self, done: float, note: str) -> None: ...


class _Cut(Exception):
    """The power fails."""


class _CutAfter:
    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def update(self, done: float, note: str) -> None:
        if done >= self._epochs:
            raise _Cut


@pytest.fixture
def shape(shop_split: Split) -> SASRecConfig:
    return SASRecConfig(n_items=shop_split.train.n_items, dim=8, max_history=10, dropout=0.3)


@pytest.mark.parametrize("chunk", [3 * 8, 2**20])
def test_the_chunked_loss_and_its_gradients_are_exact(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_LOGITS", chunk)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(8, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 8, (11,), generator=generator)
    ours = loss.catalogue_cross_entropy(states, table, targets)
    plain = functional.cross_entropy(states @ table[1:].T, targets - 1)
    torch.testing.assert_close(ours, plain)
    own = torch.autograd.grad(3 * ours, (states, table))
    torch.testing.assert_close(own, torch.autograd.grad(3 * plain, (states, table)))


def test_an_epoch_trains_on_every_transition_once(shop_split: Split) -> None:
    batches = epoch_batches(shop_split.train, max_history=99, batch=32, seed=0, epoch=3)
    pairs: list[tuple[int, int]] = []
    for inputs, targets in batches:
        real = inputs > 0
        assert bool(((targets > 0) == real).all())
        pairs += zip(inputs[real].tolist(), targets[real].tolist(), strict=True)
    expected = [
        (int(first), int(second)) for row in shop_split.train for first, second in pairwise(row)
    ]
    assert sorted(pairs) == sorted(expected)


def test_batches_hold_equal_lengths_and_differ_between_epochs(shop_split: Split) -> None:
    def epoch(number: int) -> list[torch.Tensor]:
        batches = epoch_batches(shop_split.train, max_history=10, batch=32, seed=0, epoch=number)
        return [inputs for inputs, _ in batches]

    assert all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(2), strict=True))
    padding = sum(int((inputs == 0).sum()) for inputs in epoch(1))
    assert padding < 0.1 * sum(inputs.numel() for inputs in epoch(1))


def test_single_events_are_asked_once_each_with_all_that_came_before(shop_split: Split) -> None:
    seen = []
    for batch in event_batches(shop_split.train, max_history=99, batch=32, seed=0, epoch=3):
        assert batch.weight == len(batch.inputs) <= 32
        for inputs, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            seen.append((*(item for item in inputs if item), target))
    expected = [
        tuple(history[: place + 1].tolist())
        for history in shop_split.train
        for place in range(1, history.size)
    ]
    assert sorted(seen) == sorted(expected)


def test_single_events_keep_the_newest_of_a_long_history_and_meet_others_every_epoch(
    shop_split: Split,
) -> None:
    first, again, second = (
        list(event_batches(shop_split.train, max_history=4, batch=32, seed=0, epoch=number))
        for number in (0, 0, 1)
    )
    assert all(batch.inputs.shape[1] <= 4 for batch in first)
    assert any(bool((batch.inputs[:, 0] > 0).any()) for batch in first)
    assert all(bool((batch.inputs[:, -1] > 0).all()) for batch in first)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a.targets, b.targets) for a, b in zip(first, second, strict=False))


def test_events_by_themselves_have_the_loss_of_whole_histories_where_places_answer_alike(
    shape: SASRecConfig, shop_split: Split
) -> None:
    torch.manual_seed(5)
    model = SASRec(replace(shape, positions="relative", max_history=99)).eval()
    means = []
    for examples in ("histories", "events"):
        config = TrainConfig(examples=examples, batch=10**6)
        lesson = from_labels(config)
        (batch,) = lesson.batches(99, config, shop_split.train, 0)
        means.append(lesson.loss(model, batch).item())
    assert means[1] == pytest.approx(means[0], rel=1e-5)


def test_examples_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="examples 'users' is none of histories, events"):
        TrainConfig(examples="users")


def _train(
    shape: SASRecConfig, split: Split, path: Path, config: TrainConfig = TRAINING
) -> tuple[SASRec, TrainReport]:
    return train_network(shape, config, split, checkpoint=path, key="k", tracker=_Silent())


def test_a_resumed_run_equals_an_uninterrupted_one(
    shape: SASRecConfig, shop_split: Split, tmp_path: Path
) -> None:
    whole, report = _train(shape, shop_split, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(_Cut):
        train_network(shape, TRAINING, shop_split, checkpoint=cut, key="k", tracker=_CutAfter(3))
    resumed, again = _train(shape, shop_split, cut)
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
    assert (again.epochs, again.best_score) == (report.epochs, report.best_score)
    assert not whole.table[0].any()


def test_training_lowers_the_loss(shape: SASRecConfig, shop_split: Split, tmp_path: Path) -> None:
    _, report = _train(shape, shop_split, tmp_path / "run")
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    assert report.best_score == max(entry.get("ndcg@10", 0) for entry in report.history)


def test_a_checkpoint_of_other_settings_is_not_resumed(
    shape: SASRecConfig, shop_split: Split, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    _train(shape, shop_split, path, replace(TRAINING, epochs=1))
    _, report = train_network(
        shape, TRAINING, shop_split, checkpoint=path, key="other", tracker=_Silent()
    )
    assert report.epochs == TRAINING.epochs


def test_a_damaged_checkpoint_is_an_error_with_a_cure(
    shape: SASRecConfig, shop_split: Split, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="delete it"):
        _train(shape, shop_split, path)


def test_training_stops_when_its_minutes_are_spent(
    shape: SASRecConfig, shop_split: Split, tmp_path: Path
) -> None:
    _, report = train_network(
        shape,
        replace(TRAINING, epochs=50, minutes=1.0),
        shop_split,
        checkpoint=tmp_path / "run",
        key="k",
        tracker=_Silent(),
        clock=_ticking(10.0),
    )
    # An epoch takes 20 s by this clock, 10 of them before the check: 70 s at the fourth.
    assert report.epochs == 4
    assert report.best_epoch > 0


def _ticking(step: float) -> Callable[[], float]:
    times = iter(np.arange(0.0, 1e6, step).tolist())
    return lambda: float(next(times))


def test_training_stops_when_validation_stops_improving(
    shape: SASRecConfig, shop_split: Split, tmp_path: Path
) -> None:
    # Without learning nothing improves after the first evaluation.
    config = TrainConfig(epochs=50, batch=64, rate=1e-12, evaluate_every=1, patience=2)
    _, report = _train(shape, shop_split, tmp_path / "run", config)
    assert report.best_epoch == 1
    assert report.epochs == 3
