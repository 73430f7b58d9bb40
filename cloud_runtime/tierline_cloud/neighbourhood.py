"""A stage of the factory: which neighbours the edge carries, and how much they have to say."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tierline_cloud.models.near import edge_neighbours, gains_document, save_neighbours
from tierline_cloud.stages import Result, Stage
from tierline_cloud.training.distillation import Distillation
from tierline_cloud.training.gains import fit_gains

if TYPE_CHECKING:  # the networks' stages import this one
    from tierline_cloud.networks import Networks


def choose_neighbours(networks: Networks) -> Stage:
    """The pairs that matter most, and weight and floor by what explains the cloud best beside the
    network that the edge begins as."""
    recipe, begin = networks.recipe, networks.begin

    def make(folder: Path, key: str) -> Result:
        served, train = networks.served, networks.split.train
        assert served.neighbours is not None  # of a blend
        table = edge_neighbours(served.neighbours.knn, train, each=recipe.neighbours)
        lesson = Distillation(teacher=served)
        found = fit_gains(lesson, networks.network(begin), table, train, recipe.distillation)
        table = replace(table, weight=found.weight, floor=found.floor)
        save_neighbours(folder, table)
        return {
            "pairs": int(table.ids.size),
            "bytes": table.nbytes,
            "gains": gains_document(table),
            "fitted": asdict(found),
        }

    inputs = {"each": recipe.neighbours, "seed": recipe.distillation.seed}
    after = (networks.blend, networks.baselines, begin)
    return networks.store.run("neighbours", make, inputs=inputs, after=after)
