"""Distillation pulls a network towards what its teacher would serve of the items not yet seen."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tierline_cloud.data import Sequences, ShopConfig, generate_shop, leave_one_out
from tierline_cloud.evaluation import agreement_loss, factor_scores, rank_catalogue
from tierline_cloud.models.baselines import ItemKnn
from tierline_cloud.models.blend import FLOOR, CloudModel, Neighbours, blended
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.training import TrainConfig, train_network
from tierline_cloud.training.console import Console
from tierline_cloud.training.heads import ask_teacher
from tierline_cloud.training.listwise import ListwiseDistillation
from tierline_cloud.training.loop import hidden_states

SHOP = ShopConfig(users=200, items=120, clusters=6, seed=3)
SHAPE = SASRecConfig(n_items=120, dim=16, blocks=1, max_history=20, dropout=0.0)
TRAINING = TrainConfig(epochs=6, batch=50, rate=5e-3, evaluate_every=6, seed=1)


def teacher(train: Sequences) -> CloudModel:
    torch.manual_seed(0)
    neighbours = Neighbours(knn=ItemKnn.fit(train), weight=1.5)
    return CloudModel(network=SASRec(SHAPE).eval(), neighbours=neighbours)


def test_the_student_comes_to_serve_what_the_teacher_would(tmp_path: Path) -> None:
    split = leave_one_out(generate_shop(SHOP))
    cloud = teacher(split.train)
    histories, target = split.test_history, split.test_target
    scores = blended(
        hidden_states(cloud.network, histories), cloud.table, histories, cloud.neighbours
    )
    wanted = rank_catalogue(scores, histories, target).top

    def loss_of(model: SASRec) -> float:
        table = model.table.detach().numpy()
        served = rank_catalogue(
            factor_scores(hidden_states(model, histories), table), histories, target
        )
        return float(agreement_loss(served.top, wanted).mean())

    torch.manual_seed(TRAINING.seed)
    before = loss_of(SASRec(SHAPE).eval())
    with Console(io.StringIO()).track("distil", TRAINING.epochs) as tracker:
        student, _ = train_network(
            SHAPE,
            TRAINING,
            split,
            checkpoint=tmp_path / "checkpoint",
            key="k",
            tracker=tracker,
            lesson=ListwiseDistillation(teacher=cloud),
        )
    assert loss_of(student) < 0.8 * before


def test_a_student_that_equals_its_teacher_has_nothing_to_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tierline_cloud.training.heads.HEAD", SHAPE.n_items)
    train = leave_one_out(generate_shop(SHOP)).train
    torch.manual_seed(0)
    network = SASRec(SHAPE).eval()
    lesson = ListwiseDistillation(teacher=CloudModel(network=network, neighbours=None))
    batch = next(lesson.batches(SHAPE.max_history, TRAINING, train, epoch=0))
    lesson.loss(network, batch).backward()  # type: ignore[no-untyped-call]
    assert network.table.grad is not None
    assert float(network.table.grad.abs().max()) < 1e-5  # shares are kept in float16


def test_every_event_is_taught_once_an_epoch_in_another_order() -> None:
    train = leave_one_out(generate_shop(SHOP)).train
    lesson = ListwiseDistillation(teacher=teacher(train))
    epochs = [
        list(lesson.batches(SHAPE.max_history, TRAINING, train, epoch)) for epoch in (0, 0, 1)
    ]
    for batches in epochs:
        places = torch.cat([batch.places[batch.places >= 0] for batch in batches]).numpy()
        recent = np.minimum(train.lengths, SHAPE.max_history).sum()
        assert np.unique(places).size == places.size == recent
        for batch in batches:
            real = batch.places >= 0
            assert np.array_equal(train.items[batch.places[real]], batch.inputs[real])
    first, again, second = ([batch.places.numpy() for batch in epoch] for epoch in epochs)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("label", [0.0, 0.4])
def test_what_a_user_has_seen_is_not_taught(label: float) -> None:
    train = Sequences.from_lists([[1, 2, 1, 3], [4, 4, 4]], n_items=9)
    lesson = ListwiseDistillation(teacher=small_teacher(train), label=label)
    (batch,) = lesson.batches(8, TRAINING, train, epoch=0)
    loss = lesson.loss(SASRec(replace(SHAPE, n_items=9)).eval(), batch).item()
    assert 0.0 < loss < 2 * np.log(9)  # a seen item would cost an infinity


def test_the_label_takes_its_share_of_what_came_next_and_none_after_the_last() -> None:
    train = Sequences.from_lists([[1, 2, 3]], n_items=9)
    lesson = ListwiseDistillation(teacher=small_teacher(train), label=1.0)
    (batch,) = lesson.batches(8, TRAINING, train, epoch=0)
    student = SASRec(replace(SHAPE, n_items=9)).eval()
    assert lesson.heads is not None
    with torch.no_grad():
        states = student.all_states(batch.inputs)[0]
        scores = (states @ student.table.T).double()
    wanted = torch.zeros(3, 10, dtype=torch.float64)
    wanted[0, 2] = wanted[1, 3] = 1.0
    wanted[2, lesson.heads.items[2]] = torch.from_numpy(lesson.heads.shares[2].astype(np.float64))
    expected = 0.0
    for place, seen in enumerate(([0, 1], [0, 1, 2], [0, 1, 2, 3])):
        scores[place, seen] = -1e9
        expected -= float((wanted[place] * torch.log_softmax(scores[place], 0)).sum())
    assert lesson.loss(student, batch).item() == pytest.approx(expected / 3, rel=1e-4)


def test_the_parts_of_a_batch_are_the_batch() -> None:
    train = leave_one_out(generate_shop(SHOP)).train
    lesson = ListwiseDistillation(teacher=teacher(train))
    student = SASRec(SHAPE).eval()
    batch = next(lesson.batches(SHAPE.max_history, TRAINING, train, epoch=0))
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert sum(part.weight for part in parts) == batch.weight
    together = sum(lesson.loss(student, part).item() * part.weight for part in parts)
    assert together / batch.weight == pytest.approx(lesson.loss(student, batch).item(), rel=1e-5)


def small_teacher(train: Sequences) -> CloudModel:
    torch.manual_seed(0)
    shape = replace(SHAPE, n_items=train.n_items, positions="relative")
    network = SASRec(shape).eval()
    return CloudModel(network=network, neighbours=Neighbours(knn=ItemKnn.fit(train), weight=1.0))


def test_the_head_is_the_best_of_the_blend_as_if_the_user_had_not_been_counted() -> None:
    train = Sequences.from_lists([[1, 2, 3], [1, 2], [2, 3, 4], [4, 5]], n_items=30)
    heads = ask_teacher(small_teacher(train), train)
    cloud = small_teacher(train)
    others = train.take(np.array([1, 2, 3]))
    popular = np.maximum(train.popularity(), 1) / np.maximum(others.popularity(), 1)
    counted = ItemKnn.fit(others)
    queries = np.repeat(np.arange(31), np.diff(counted.starts))
    near = np.zeros(31)
    discount = popular[queries] ** -0.5 * popular[counted.neighbours] ** -0.1
    for place, weight in zip(np.flatnonzero(queries == 1), [1.0, 1.0], strict=False):
        near[counted.neighbours[place]] += weight * counted.weights[place] * discount[place]
    with torch.no_grad():
        state = cloud.network.hidden(torch.tensor([[1]]))[0]
        scores = (cloud.network.table @ state).numpy() + np.log(near / near.sum() + FLOOR)
    scores[[0, 1]] = -np.inf
    shares = np.exp(scores / 2 - np.max(scores / 2))
    best = np.argsort(-shares)[:5]
    assert heads.items[0, :5].tolist() == best.tolist()
    np.testing.assert_allclose(heads.shares[0, :5], (shares / shares.sum())[best], rtol=2e-3)
