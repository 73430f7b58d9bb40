"""Distillation pulls the edge towards the cloud's distribution over items not yet seen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from tierline_cloud.data import Sequences, ShopConfig, generate_shop, leave_one_out
from tierline_cloud.evaluation import agreement_loss, factor_scores, rank_catalogue
from tierline_cloud.models.baselines import ItemKnn
from tierline_cloud.models.blend import CloudModel, Neighbours, blended
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.training import TrainConfig, train_network
from tierline_cloud.training.console import Console
from tierline_cloud.training.distillation import Distillation
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
            lesson=Distillation(teacher=cloud),
        )
    assert loss_of(student) < 0.8 * before


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    train = leave_one_out(generate_shop(SHOP)).train
    torch.manual_seed(0)
    network = SASRec(SHAPE).eval()
    lesson = Distillation(teacher=CloudModel(network=network, neighbours=None))
    batch = next(lesson.batches(SHAPE.max_history, TRAINING, train, epoch=0))
    lesson.loss(network, batch).backward()  # type: ignore[no-untyped-call]
    assert network.table.grad is not None
    assert float(network.table.grad.abs().max()) < 1e-6


def test_every_user_is_taught_once_an_epoch_and_epochs_differ() -> None:
    train = leave_one_out(generate_shop(SHOP)).train
    lesson = Distillation(teacher=teacher(train))
    student = SASRec(SHAPE).eval()
    epochs = [
        list(lesson.batches(SHAPE.max_history, TRAINING, train, epoch)) for epoch in (0, 0, 1)
    ]
    assert [sum(batch.weight for batch in epoch) for epoch in epochs] == [len(train)] * 3
    first, again, second = (
        [lesson.loss(student, batch).item() for batch in epoch] for epoch in epochs
    )
    assert first == again
    assert not np.allclose(sorted(first), sorted(second))


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_user_has_seen_is_not_taught(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierline_cloud.training.distillation.WHOLE", float(whole))
    train = leave_one_out(generate_shop(SHOP)).train
    torch.manual_seed(0)
    lesson = Distillation(teacher=teacher(train))
    student = SASRec(SHAPE).eval()
    for batch in lesson.batches(SHAPE.max_history, TRAINING, train, epoch=0):
        loss = lesson.loss(student, batch).item()
        assert 0.0 < loss < 2 * np.log(SHAPE.n_items)  # a seen item would cost 1e9


def test_the_parts_of_a_batch_are_the_batch() -> None:
    train = leave_one_out(generate_shop(SHOP)).train
    lesson = Distillation(teacher=teacher(train))
    student = SASRec(SHAPE).eval()
    batch = next(lesson.batches(SHAPE.max_history, TRAINING, train, epoch=0))
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert sum(part.weight for part in parts) == batch.weight
    together = sum(lesson.loss(student, part).item() * part.weight for part in parts)
    assert together / batch.weight == pytest.approx(lesson.loss(student, batch).item(), rel=1e-5)
