"""A tiny shop, and the factory run once on it, for every test of the cloud package."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tierline_cloud.data import ShopConfig, Split, generate_shop, leave_one_out
from tierline_cloud.factory import Factory, Source
from tierline_cloud.recipes import QUICK, Recipe
from tierline_cloud.training.console import Console

TINY_SHOP = ShopConfig(users=240, items=160, clusters=8, styles=2)


@pytest.fixture(scope="session")
def shop_split() -> Split:
    return leave_one_out(generate_shop(TINY_SHOP))


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return replace(
        QUICK,
        max_history=12,
        shop=TINY_SHOP,
        cloud=replace(QUICK.cloud, dim=16),
        edge=replace(QUICK.edge, dim=8),
        cloud_training=replace(QUICK.cloud_training, epochs=2, batch=64, evaluate_every=1),
        edge_training=replace(QUICK.edge_training, epochs=2, batch=64, evaluate_every=1),
        distillation=replace(QUICK.distillation, epochs=1, batch=64, evaluate_every=1),
        head=replace(QUICK.head, steps=50),
    )


@pytest.fixture(scope="session")
def factory(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    out: Path = tmp_path_factory.mktemp("factory")
    made = Factory(Source(path=None), tiny_recipe, out, Console(io.StringIO()))
    made.report()
    return made


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small products: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
