"""What an edge carries of item-kNN: the gains of the cloud, how much they say, who is taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.data import Sequences, Split
from tierline_cloud.evaluation import factor_scores, rank_catalogue
from tierline_cloud.models.baselines import ItemKnn
from tierline_cloud.models.blend import CloudModel, Neighbours
from tierline_cloud.models.near import (
    boosted,
    edge_neighbours,
    gains_document,
    load_neighbours,
    save_neighbours,
)
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.training import TrainConfig
from tierline_cloud.training.distillation import Distillation
from tierline_cloud.training.gains import fit_gains
from tierline_serving.neighbours import NeighbourTable

ITEMS = 25
TRAINING = TrainConfig(epochs=1, batch=60, seed=4)
sequences = st.lists(
    st.lists(st.integers(1, ITEMS), min_size=1, max_size=30), min_size=2, max_size=8
).map(lambda lists: Sequences.from_lists(lists, n_items=ITEMS))


def as_knn(table: NeighbourTable) -> ItemKnn:
    """The pruned neighbours as the cloud's own type holds them."""
    return ItemKnn(
        starts=table.starts,
        neighbours=table.ids.astype(np.int64),
        weights=table.levels[table.codes],
        n_items=table.starts.size - 2,
    )


@given(sequences, st.floats(0.1, 8.0), st.floats(0.1, 2.0))
def test_an_edges_gains_are_the_clouds_of_the_same_neighbours_less_a_constant(
    train: Sequences, each: float, weight: float
) -> None:
    # The cloud's floor, so that the two formulas are one.
    table = edge_neighbours(ItemKnn.fit(train), train, each=each, weight=weight, floor=1e-5)
    cloud = Neighbours(knn=as_knn(table), weight=weight)
    gains = np.zeros((len(train), ITEMS + 1), np.float32)
    table.boosts(list(train)).add_to(gains)
    for user, history in enumerate(train):
        wanted = cloud.boost(history)
        lowest = np.float32(weight * np.log(1e-5))
        np.testing.assert_allclose(gains[user] + lowest, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_saved_is_what_is_read(shop_split: Split, tmp_path: Path) -> None:
    train = shop_split.train
    table = edge_neighbours(ItemKnn.fit(train), train, each=3, weight=0.7, floor=0.01)
    assert table.ids.size == 3 * train.n_items
    save_neighbours(tmp_path, table)
    read = load_neighbours(tmp_path, gains_document(table))
    for mine, theirs in zip(read.boosts(list(train)), table.boosts(list(train)), strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_scores_are_the_networks_where_there_are_no_neighbours(shop_split: Split) -> None:
    scores = factor_scores(np.ones((4, 2), np.float32), np.ones((9, 2), np.float32))
    assert boosted(scores, shop_split.test_history, None) is scores


def teacher_of(train: Sequences, weight: float, table: NeighbourTable | None) -> CloudModel:
    """A cloud whose neighbours are the edge's own, or all there are."""
    torch.manual_seed(0)
    shape = SASRecConfig(n_items=train.n_items, dim=8, blocks=1, max_history=12, dropout=0.0)
    knn = ItemKnn.fit(train) if table is None else as_knn(table)
    return CloudModel(network=SASRec(shape).eval(), neighbours=Neighbours(knn=knn, weight=weight))


def test_the_fit_finds_the_weight_that_the_teacher_gives_its_neighbours(shop_split: Split) -> None:
    train = shop_split.train
    table = edge_neighbours(ItemKnn.fit(train), train, each=4)
    cloud = teacher_of(train, 0.6, table)
    assert isinstance(cloud.network, SASRec)
    found = fit_gains(Distillation(teacher=cloud), cloud.network, table, train, TRAINING)
    assert found.weight == pytest.approx(0.6, rel=0.02)
    assert found.floor == pytest.approx(1e-5, rel=0.2)
    assert found.loss < found.loss_without


def test_a_teacher_without_neighbours_gives_them_next_to_no_weight(shop_split: Split) -> None:
    train = shop_split.train
    table = edge_neighbours(ItemKnn.fit(train), train, each=4)
    cloud = replace(teacher_of(train, 1.0, None), neighbours=None)
    assert isinstance(cloud.network, SASRec)
    found = fit_gains(Distillation(teacher=cloud), cloud.network, table, train, TRAINING)
    moved = replace(table, weight=found.weight, floor=found.floor).boosts(list(train)).values
    assert float(moved.max(initial=0.0)) < 0.1


def test_a_student_that_equals_its_teacher_neighbours_and_all_has_nothing_to_learn(
    shop_split: Split,
) -> None:
    train = shop_split.train
    table = edge_neighbours(ItemKnn.fit(train), train, each=4, weight=0.6, floor=1e-5)
    cloud = teacher_of(train, 0.6, table)
    network = cloud.network
    assert isinstance(network, SASRec)
    for student, learns in ((table, False), (None, True)):
        network.zero_grad()
        lesson = Distillation(teacher=cloud, student=student)
        batch = next(lesson.batches(12, TRAINING, train, epoch=0))
        lesson.loss(network, batch).backward()  # type: ignore[no-untyped-call]
        assert network.table.grad is not None
        assert (float(network.table.grad.abs().max()) > 1e-4) is learns


def test_a_few_neighbours_bring_lists_nearer_to_the_clouds(shop_split: Split) -> None:
    """The whole blend without its network, and of its neighbours only a few: still alike."""
    train, histories, targets = shop_split.train, shop_split.test_history, shop_split.test_target
    knn = ItemKnn.fit(train)
    nothing = factor_scores(
        np.zeros((len(train), 2), np.float32), np.zeros((train.n_items + 1, 2), np.float32)
    )
    whole = Neighbours(knn=knn, weight=1.0)
    wanted = rank_catalogue(lambda users: whole.boosts(histories, users), histories, targets).top
    shared = []
    for each in (1, 4, 16):
        few = edge_neighbours(knn, train, each=each)
        mine = rank_catalogue(boosted(nothing, histories, few), histories, targets).top
        shared.append(
            float(np.mean([np.isin(a, b).mean() for a, b in zip(mine, wanted, strict=True)]))
        )
    assert shared == sorted(shared)
    assert shared[-1] > 0.8
