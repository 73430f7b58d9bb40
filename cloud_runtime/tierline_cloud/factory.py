"""The model factory: from interaction data to an edge bundle and a cloud bundle, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tierline_cloud.calibration import threshold_for, train_head
from tierline_cloud.carrying import (
    carried_neighbours,
    carried_rows,
    choose_items,
    edge_scores,
    load_carried,
)
from tierline_cloud.compression import quantize_encoder
from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation import (
    Ranking,
    agreement_loss,
    paired_bootstrap,
    ranking_metrics,
    spearman,
    tier_table,
)
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.evaluation.ranking import ScoreUsers, rank_catalogue
from tierline_cloud.export import (
    EdgeOutputs,
    EdgeSession,
    Floats,
    batch_parity,
    compare,
    export_edge,
    feeds,
    require_batch_invariance,
    require_parity,
    torch_outputs,
)
from tierline_cloud.models.edge import EdgeModel
from tierline_cloud.networks import Networks, Source, item_rows
from tierline_cloud.stages import Result, Stage
from tierline_kernels import RowwiseInt8, dequantize_rows, quantize_rows
from tierline_serving.carried import Carried
from tierline_serving.neighbours import Boosts, NeighbourTable

CALIBRATION_BATCH, CALIBRATION_USERS = 64, 1024  # of the router's users: enough for ranges
VARIANCE_USERS = 128
__all__ = ["Factory", "Source", "served_states"]


class Factory(Networks):
    """One run of the factory: its networks, then the edge that is shipped and what it is worth."""

    # ── the edge: what it carries, table, uncertainty, graph ──────────────────────────────────
    @cached_property
    def carrying(self) -> Stage | None:
        """Which items the edge carries; None where it has all of them."""
        return None if self.recipe.carried == 1 else choose_items(self)

    @cached_property
    def carried(self) -> Carried | None:
        """What ``carrying`` left."""
        return None if self.carrying is None else load_carried(self.carrying)

    @cached_property
    def asked(self) -> Ids:
        """``ids`` as rows of the edge's table."""
        return self.ids if self.carried is None else self.carried.rows_of(self.ids)

    @cached_property
    def near(self) -> NeighbourTable | None:
        """The neighbours the edge is shipped with, by rows of its table."""
        if self.carried is None or self.neighbours is None:
            return self.neighbours
        return carried_neighbours(self.neighbours, self.carried)

    @cached_property
    def table(self) -> RowwiseInt8:
        """The edge's item table as it is shipped."""
        rows = item_rows(self.network(self.distilled))
        return quantize_rows(rows if self.carried is None else carried_rows(rows, self.carried))

    @cached_property
    def rows(self) -> Floats:
        return dequantize_rows(self.table)

    @cached_property
    def router(self) -> Stage:
        """Teaches the uncertainty head on the router's users."""
        inputs = {"head": asdict(self.recipe.head), "seed": self.seed}
        after = tuple(stage for stage in (self.distilled, self.carrying) if stage is not None)
        return self.store.run("uncertainty", self._router, inputs=inputs, after=after)

    def _router(self, folder: Path, key: str) -> Result:
        model, users = EdgeModel(self.network(self.distilled)).eval(), self.groups.router
        served = self.rank_edge(torch_outputs(model, self.asked, self.rows).hidden)
        losses = agreement_loss(served.top, Ranking.load(self.blend.folder / "test").top)
        error = train_head(model, self.asked[users], self.rows, losses[users], self.recipe.head)
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, folder / "edge.safetensors")
        return {"users": int(users.size), "held_out_error": error, "loss": float(losses.mean())}

    @cached_property
    def edge_model(self) -> EdgeModel:
        model = EdgeModel(self.network(self.distilled))
        model.load_state_dict(load_file(self.router.folder / "edge.safetensors"))
        return model.eval()

    @cached_property
    def exported(self) -> Stage:
        inputs = {"format": 2}  # since 2 without the exporter's notes
        return self.store.run("export", self._export, inputs=inputs, after=(self.router,))

    def _export(self, folder: Path, key: str) -> Result:
        recipe = self.recipe
        export_edge(
            self.edge_model,
            folder / "float32.onnx",
            max_history=recipe.max_history,
            dim=recipe.edge.dim,
        )
        outputs = EdgeSession(folder / "float32.onnx", self.rows).run(self.asked)
        parity = compare(self._float32_outputs(), outputs, self.rows, self.boosts)
        require_parity(parity)
        ranking = self.rank_edge(outputs.hidden)
        ranking.save(folder / "test")
        return {"parity": asdict(parity), "test": ranking_metrics(ranking.ranks)}

    @cached_property
    def quantized(self) -> Stage:
        # Since format 2 the users for the ranges are spread over all that teach the router.
        inputs = {"seed": self.seed, "users": CALIBRATION_USERS, "format": 2}
        return self.store.run("quantize", self._quantize, inputs=inputs, after=(self.exported,))

    def _quantize(self, folder: Path, key: str) -> Result:
        source, target = self.exported.folder / "float32.onnx", folder / "model.onnx"
        products = quantize_encoder(source, target, self.calibration_batches(self.asked, self.rows))
        session = EdgeSession(target, self.rows)
        outputs = session.run(self.asked)
        np.save(folder / "hidden.npy", outputs.hidden)
        np.save(folder / "uncertainty.npy", outputs.uncertainty)
        asked = self.asked[:VARIANCE_USERS]
        together = batch_parity(session.run, asked, self.rows, self.near)
        require_batch_invariance(together)
        ranking = self.rank_edge(served_states(outputs.hidden))
        ranking.save(folder / "test")
        before = Ranking.load(self.exported.folder / "test")
        return {
            "products": products,
            "test": ranking_metrics(ranking.ranks),
            "loss_against_float32": float(agreement_loss(ranking.top, before.top).mean()),
            "agreement": asdict(compare(self._float32_outputs(), outputs, self.rows, self.boosts)),
            "batch_variance": together.largest_difference,
            "bytes": {"float32": source.stat().st_size, "int8": target.stat().st_size},
        }

    def _float32_outputs(self) -> EdgeOutputs:
        return torch_outputs(self.edge_model, self.asked, self.rows)

    @cached_property
    def boosts(self) -> Boosts | None:
        """What the edge's neighbours add for what it is asked at test time."""
        return None if self.near is None else self.near.boosts(list(self.asked))

    def edge_scores(self, states: Floats) -> ScoreUsers:
        """What the edge gives every item of the catalogue for the test slot's histories."""
        return edge_scores(states, self.rows, self.split.test_history, self.near, self.carried)

    def rank_edge(self, states: Floats) -> Ranking:
        """The test slot's targets among all unseen items, by the edge."""
        split = self.split
        return rank_catalogue(self.edge_scores(states), split.test_history, split.test_target)

    @property
    def range_users(self) -> Ids:
        """Whose histories give the activation ranges: no one that anything is judged on alone."""
        router = self.groups.router
        places = np.linspace(0, router.size - 1, min(CALIBRATION_USERS, router.size))
        chosen: Ids = router[places.astype(np.int64)]
        return chosen

    def calibration_batches(self, ids: Ids, rows: Floats) -> Iterator[dict[str, Floats]]:
        """The graph's inputs for the range users, fed with ``rows`` of everybody's ``ids``."""
        users = self.range_users
        for start in range(0, users.size, CALIBRATION_BATCH):
            yield feeds(ids[users[start : start + CALIBRATION_BATCH]], rows)

    # ── judgement ─────────────────────────────────────────────────────────────────────────────
    @cached_property
    def calibrated(self) -> Stage:
        inputs = {"escalation": self.recipe.escalation, "seed": self.seed}
        return self.store.run(
            "calibrate", self._calibrate, inputs=inputs, after=(self.quantized, self.blend)
        )

    def _calibrate(self, folder: Path, key: str) -> Result:
        users = self.groups.calibration
        return {
            "users": int(users.size),
            "threshold": threshold_for(self.uncertainty[users], self.recipe.escalation),
            "spearman": self._spearman(users),
        }

    @cached_property
    def uncertainty(self) -> NDArray[np.float64]:
        """What the edge says of every test user: the graph's, and what he has lost before it."""
        loaded: NDArray[np.float32] = np.load(self.quantized.folder / "uncertainty.npy")
        own = loaded.astype(np.float64)
        if self.carried is None:
            return own
        return self.carried.doubts(list(self.split.test_history), own)

    def _spearman(self, users: Ids) -> float:
        edge = Ranking.load(self.quantized.folder / "test")
        cloud = Ranking.load(self.blend.folder / "test")
        losses = agreement_loss(edge.top[users], cloud.top[users])
        return spearman(self.uncertainty[users], losses)

    @cached_property
    def evaluated(self) -> Stage:
        return self.store.run(
            "evaluate", self._evaluate, inputs={}, after=(self.calibrated, self.baselines)
        )

    def _evaluate(self, folder: Path, key: str) -> Result:
        users = self.groups.report
        edge = Ranking.load(self.quantized.folder / "test")
        cloud = Ranking.load(self.blend.folder / "test")
        knn = np.load(self.baselines.folder / "knn.ranks.npy")
        threshold = float(self.calibrated.result["threshold"])
        table = tier_table(edge.of(users), cloud.of(users), self.uncertainty[users], threshold)
        ours = ndcg(cloud.ranks, 10)
        return {
            "users": int(users.size),
            "tiers": [asdict(row) for row in table],
            "spearman": self._spearman(users),
            "cloud_minus_edge": asdict(paired_bootstrap(ours, ndcg(edge.ranks, 10))),
            "cloud_minus_knn": asdict(paired_bootstrap(ours, ndcg(knn, 10))),
        }

    def report(self) -> dict[str, Any]:
        """Run whatever is not done yet; the results of all stages, plain values."""
        stages = {
            "data": self.ingest,
            "baselines": self.baselines,
            "cloud": self.cloud,
            "blend": self.first_blend,
            "again": self.again,
            "ensemble": self.blend if self.again is not None else None,
            "edge": self.edge,
            "neighbours": self.neighbourhood,
            "distil": self.distilled,
            "carried": self.carrying,
            "uncertainty": self.router,
            "export": self.exported,
            "quantize": self.quantized,
            "calibrate": self.calibrated,
            "evaluate": self.evaluated,
        }
        return {name: stage.result for name, stage in stages.items() if stage is not None}


def served_states(hidden: Floats) -> Floats:
    """The states as whole-catalogue retrieval sees them: int8 items meet an int8 query."""
    return dequantize_rows(quantize_rows(hidden))
