"""Item rows learned before the cloud's network: by matrix factorisation or by two towers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from tierline_cloud.evaluation import ranking_metrics
from tierline_cloud.models.factorisation import Factors
from tierline_cloud.stages import Result, Stage

if TYPE_CHECKING:
    from tierline_cloud.networks import Networks


def pretrain(networks: Networks) -> Stage:
    """The stage the recipe wants; it leaves ``rows.safetensors`` and how well they retrieve."""
    if networks.recipe.pretrain == "mf":
        return _factors(networks)
    return _towers(networks)


def _factors(networks: Networks) -> Stage:
    dim, seed = networks.recipe.cloud.dim, networks.seed

    def make(folder: Path, key: str) -> Result:
        factors = Factors.fit(networks.split.train, dim, seed=seed)
        save_file({"rows": torch.from_numpy(factors.items)}, folder / "rows.safetensors")
        users = factors.users(networks.split.test_history)
        return {"test": ranking_metrics(networks.rank(users, factors.items).ranks)}

    inputs = {"kind": "mf", "dim": dim, "seed": seed}
    return networks.store.run("pretrain", make, inputs=inputs, after=(networks.ingest,))


def _towers(networks: Networks) -> Stage:
    """As long and fast as the edge is trained: both are small."""
    recipe = networks.recipe
    shape = replace(recipe.cloud, architecture="two-tower", blocks=1, heads=1)
    trained = networks.train("towers", shape, recipe.edge_training or recipe.distillation)

    def make(folder: Path, key: str) -> Result:
        rows = load_file(trained.folder / "model.safetensors")["table"]
        save_file({"rows": rows}, folder / "rows.safetensors")
        return {"test": trained.result["test"]}

    return networks.store.run("pretrain", make, inputs={"kind": "two-tower"}, after=(trained,))
