"""The model factory: from interaction data to an edge bundle and a cloud bundle, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tierline_cloud.calibration import threshold_for, train_head
from tierline_cloud.compression import quantize_encoder
from tierline_cloud.data import (
    Sequences,
    Split,
    UserGroups,
    generate_shop,
    group_users,
    leave_one_out,
    pad_left,
    read_interactions,
)
from tierline_cloud.data.ingest import DataError
from tierline_cloud.data.sequences import Ids
from tierline_cloud.data.synthetic import write_s3rec
from tierline_cloud.evaluation import (
    Ranking,
    agreement_loss,
    factor_scores,
    paired_bootstrap,
    rank_catalogue,
    ranking_metrics,
    spearman,
    tier_table,
)
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.export import (
    EdgeOutputs,
    EdgeSession,
    Floats,
    batch_variance,
    compare,
    export_edge,
    feeds,
    require_parity,
    torch_outputs,
)
from tierline_cloud.models.baselines import ItemKnn, popularity_prior
from tierline_cloud.models.blend import WEIGHTS, CloudModel, Neighbours, blended
from tierline_cloud.models.edge import EdgeModel
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_cloud.recipes import ModelShape, Recipe
from tierline_cloud.stages import Result, Stage, StageStore, file_digest
from tierline_cloud.training import TrainConfig, train_sasrec
from tierline_cloud.training.console import Console
from tierline_cloud.training.distillation import Distillation
from tierline_cloud.training.loop import Lesson, hidden_states
from tierline_kernels import RowwiseInt8, dequantize_rows, quantize_rows

CALIBRATION_BATCH, CALIBRATION_USERS = 64, 1024  # of the router's users: enough for ranges
VARIANCE_USERS = 128
DISTILLATION_DROPOUT = 0.1  # the teacher's distribution is regularisation enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the data comes from: a file in one of DATA_FORMATS, or None for the made-up shop."""

    path: Path | None
    kind: str | None = None


class Factory:
    """One run of the factory under ``out``. Every stage reads what earlier ones left on disk."""

    def __init__(
        self, source: Source, recipe: Recipe, out: Path, console: Console, *, seed: int = 0
    ) -> None:
        self.source, self.recipe, self.out, self.console = source, recipe, out, console
        self.seed = seed
        self._store = StageStore(out / "stages", console)

    # ── data ──────────────────────────────────────────────────────────────────────────────────
    @cached_property
    def ingest(self) -> Stage:
        path = self.source.path
        if path is not None and not path.is_file():
            raise DataError(f"{path} is no file: give the interactions' path, or --synthetic")
        what = asdict(self.recipe.shop) if path is None else {"sha256": file_digest(path)}
        return self._store.run("ingest", self._ingest, inputs={**what, "kind": self.source.kind})

    def _ingest(self, folder: Path, key: str) -> Result:
        if self.source.path is None:
            sequences = generate_shop(self.recipe.shop)
            write_s3rec(sequences, self.out / "synthetic.txt")
        else:
            sequences = read_interactions(self.source.path, self.source.kind)
        np.save(folder / "items.npy", sequences.items)
        np.save(folder / "offsets.npy", sequences.offsets)
        return {
            "users": len(sequences),
            "items": sequences.n_items,
            "events": int(sequences.items.size),
        }

    @cached_property
    def split(self) -> Split:
        folder = self.ingest.folder
        return leave_one_out(
            Sequences(
                items=np.load(folder / "items.npy"),
                offsets=np.load(folder / "offsets.npy"),
                n_items=int(self.ingest.result["items"]),
            )
        )

    @cached_property
    def groups(self) -> UserGroups:
        return group_users(len(self.split.test_target), seed=self.seed)

    @cached_property
    def ids(self) -> Ids:
        """What the edge is asked at test time: int64 [users, max_history], left-padded."""
        return pad_left(self.split.test_history, self.recipe.max_history)

    # ── models ────────────────────────────────────────────────────────────────────────────────
    @cached_property
    def baselines(self) -> Stage:
        inputs = {"format": 2}  # since 2 the neighbours are kept for the blend
        return self._store.run("baselines", self._baselines, inputs=inputs, after=(self.ingest,))

    def _baselines(self, folder: Path, key: str) -> Result:
        split = self.split
        prior = popularity_prior(split.train)
        np.save(folder / "prior.npy", prior)
        knn = ItemKnn.fit(split.train)
        popular = rank_catalogue(
            lambda users: np.tile(prior, (users.size, 1)), split.test_history, split.test_target
        )
        similar = rank_catalogue(
            lambda users: knn.scores(split.test_history, users),
            split.test_history,
            split.test_target,
        )
        np.save(folder / "knn.ranks.npy", similar.ranks)
        save_file(Neighbours(knn=knn, weight=0.0).tensors(), folder / "knn.safetensors")
        return {
            "popularity": ranking_metrics(popular.ranks),
            "item_knn": ranking_metrics(similar.ranks),
        }

    @cached_property
    def cloud(self) -> Stage:
        return self._train("cloud", self.recipe.cloud, self.recipe.cloud_training)

    @cached_property
    def blend(self) -> Stage:
        """The cloud's network with its neighbours, their weight chosen on the validation slot."""
        return self._store.run("blend", self._blend, inputs={}, after=(self.cloud, self.baselines))

    def _blend(self, folder: Path, key: str) -> Result:
        model, split = self.model(self.cloud), self.split
        found: dict[float, float] = {}
        states = hidden_states(model, split.valid_history)
        for weight in WEIGHTS:
            scores = blended(states, _table(model), split.valid_history, self._neighbours(weight))
            ranking = rank_catalogue(scores, split.valid_history, split.valid_target)
            found[weight] = float(ndcg(ranking.ranks, 10).mean())
        best = max(found, key=lambda weight: found[weight])
        states = hidden_states(model, split.test_history)
        scores = blended(states, _table(model), split.test_history, self._neighbours(best))
        ranking = rank_catalogue(scores, split.test_history, split.test_target)
        ranking.save(folder / "test")
        valid = {str(weight): value for weight, value in found.items()}
        return {"weight": best, "valid_ndcg@10": valid, "test": ranking_metrics(ranking.ranks)}

    def _neighbours(self, weight: float) -> Neighbours:
        tensors = load_file(self.baselines.folder / "knn.safetensors")
        return Neighbours.from_tensors(tensors, weight, self.split.train.n_items)

    @property
    def neighbours(self) -> Neighbours:
        """The neighbours the cloud is served with."""
        return self._neighbours(float(self.blend.result["weight"]))

    @cached_property
    def edge(self) -> Stage:
        return self._train("edge", self.recipe.edge, self.recipe.edge_training)

    @cached_property
    def distilled(self) -> Stage:
        """The edge's network, taught by the cloud's blend."""
        shape = replace(self.recipe.edge, dropout=DISTILLATION_DROPOUT)
        teacher = CloudModel(network=self.model(self.cloud), neighbours=self.neighbours)
        weights = load_file(self.edge.folder / "model.safetensors")
        lesson, after = Distillation(teacher=teacher), (self.blend, self.edge)
        training = self.recipe.distillation
        return self._train("distil", shape, training, lesson=lesson, start=weights, after=after)

    def _train(
        self,
        name: str,
        shape: ModelShape,
        training: TrainConfig,
        *,
        lesson: Lesson | None = None,
        start: dict[str, Tensor] | None = None,
        after: tuple[Stage, ...] = (),
    ) -> Stage:
        config = self._shape(shape)

        def make(folder: Path, key: str) -> Result:
            checkpoint = folder / "checkpoint.safetensors"
            with self.console.track(f"train {name}", training.epochs) as tracker:
                model, report = train_sasrec(
                    config, training, self.split, checkpoint=checkpoint, key=key,
                    tracker=tracker, lesson=lesson, start=start,
                )  # fmt: skip
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(weights, folder / "model.safetensors")
            ranking = self._rank(hidden_states(model, self.split.test_history), _table(model))
            ranking.save(folder / "test")
            checkpoint.unlink(missing_ok=True)
            return {"test": ranking_metrics(ranking.ranks), "training": asdict(report)}

        inputs = {"shape": config.to_json(), "training": asdict(training)}
        return self._store.run(name, make, inputs=inputs, after=after or (self.ingest,))

    def _shape(self, shape: ModelShape) -> SASRecConfig:
        return SASRecConfig(
            n_items=self.split.train.n_items, max_history=self.recipe.max_history, **asdict(shape)
        )

    def model(self, stage: Stage) -> SASRec:
        """The trained model of the cloud, the edge or the distillation stage."""
        shape = self.recipe.cloud if stage is self.cloud else self.recipe.edge
        model = SASRec(self._shape(shape))
        model.load_state_dict(load_file(stage.folder / "model.safetensors"))
        return model.eval()

    # ── the edge: table, uncertainty, graph ───────────────────────────────────────────────────
    @cached_property
    def table(self) -> RowwiseInt8:
        """The edge's item table as it is shipped."""
        return quantize_rows(_table(self.model(self.distilled)))

    @cached_property
    def rows(self) -> Floats:
        return dequantize_rows(self.table)

    @cached_property
    def router(self) -> Stage:
        """Teaches the uncertainty head on the router's users."""
        inputs = {"head": asdict(self.recipe.head), "seed": self.seed}
        return self._store.run("uncertainty", self._router, inputs=inputs, after=(self.distilled,))

    def _router(self, folder: Path, key: str) -> Result:
        model, users = EdgeModel(self.model(self.distilled)).eval(), self.groups.router
        served = self._rank(torch_outputs(model, self.ids, self.rows).hidden, self.rows)
        losses = agreement_loss(served.top, Ranking.load(self.blend.folder / "test").top)
        error = train_head(model, self.ids[users], self.rows, losses[users], self.recipe.head)
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, folder / "edge.safetensors")
        return {"users": int(users.size), "held_out_error": error, "loss": float(losses.mean())}

    @cached_property
    def edge_model(self) -> EdgeModel:
        model = EdgeModel(self.model(self.distilled))
        model.load_state_dict(load_file(self.router.folder / "edge.safetensors"))
        return model.eval()

    @cached_property
    def exported(self) -> Stage:
        return self._store.run("export", self._export, inputs={}, after=(self.router,))

    def _export(self, folder: Path, key: str) -> Result:
        export_edge(self.edge_model, folder / "float32.onnx")
        outputs = EdgeSession(folder / "float32.onnx", self.rows).run(self.ids)
        parity = compare(torch_outputs(self.edge_model, self.ids, self.rows), outputs, self.rows)
        require_parity(parity)
        ranking = self._rank(outputs.hidden, self.rows)
        ranking.save(folder / "test")
        return {"parity": asdict(parity), "test": ranking_metrics(ranking.ranks)}

    @cached_property
    def quantized(self) -> Stage:
        inputs = {"seed": self.seed, "users": CALIBRATION_USERS}
        return self._store.run("quantize", self._quantize, inputs=inputs, after=(self.exported,))

    def _quantize(self, folder: Path, key: str) -> Result:
        source, target = self.exported.folder / "float32.onnx", folder / "model.onnx"
        products = quantize_encoder(source, target, self._calibration_batches())
        session = EdgeSession(target, self.rows)
        outputs = session.run(self.ids)
        np.save(folder / "hidden.npy", outputs.hidden)
        np.save(folder / "uncertainty.npy", outputs.uncertainty)
        ranking = self._rank(served_states(outputs.hidden), self.rows)
        ranking.save(folder / "test")
        before = Ranking.load(self.exported.folder / "test")
        return {
            "products": products,
            "test": ranking_metrics(ranking.ranks),
            "loss_against_float32": float(agreement_loss(ranking.top, before.top).mean()),
            "agreement": asdict(compare(self._float32_outputs(), outputs, self.rows)),
            "batch_variance": batch_variance(session, self.ids[:VARIANCE_USERS]),
            "bytes": {"float32": source.stat().st_size, "int8": target.stat().st_size},
        }

    def _float32_outputs(self) -> EdgeOutputs:
        return torch_outputs(self.edge_model, self.ids, self.rows)

    def _calibration_batches(self) -> Iterator[dict[str, Floats]]:
        users = self.groups.router[:CALIBRATION_USERS]
        for start in range(0, users.size, CALIBRATION_BATCH):
            yield feeds(self.ids[users[start : start + CALIBRATION_BATCH]], self.rows)

    # ── judgement ─────────────────────────────────────────────────────────────────────────────
    @cached_property
    def calibrated(self) -> Stage:
        inputs = {"escalation": self.recipe.escalation, "seed": self.seed}
        return self._store.run(
            "calibrate", self._calibrate, inputs=inputs, after=(self.quantized, self.blend)
        )

    def _calibrate(self, folder: Path, key: str) -> Result:
        users = self.groups.calibration
        return {
            "users": int(users.size),
            "threshold": threshold_for(self.uncertainty[users], self.recipe.escalation),
            "spearman": self._spearman(users),
        }

    @property
    def uncertainty(self) -> NDArray[np.float64]:
        loaded: NDArray[np.float32] = np.load(self.quantized.folder / "uncertainty.npy")
        return loaded.astype(np.float64)

    def _spearman(self, users: Ids) -> float:
        edge = Ranking.load(self.quantized.folder / "test")
        cloud = Ranking.load(self.blend.folder / "test")
        losses = agreement_loss(edge.top[users], cloud.top[users])
        return spearman(self.uncertainty[users], losses)

    @cached_property
    def evaluated(self) -> Stage:
        return self._store.run(
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

    def _rank(self, hidden: Floats, table: Floats) -> Ranking:
        split = self.split
        return rank_catalogue(factor_scores(hidden, table), split.test_history, split.test_target)

    def report(self) -> dict[str, Any]:
        """Run whatever is not done yet; the results of all stages, plain values."""
        stages = {
            "data": self.ingest,
            "baselines": self.baselines,
            "cloud": self.cloud,
            "blend": self.blend,
            "edge": self.edge,
            "distil": self.distilled,
            "uncertainty": self.router,
            "export": self.exported,
            "quantize": self.quantized,
            "calibrate": self.calibrated,
            "evaluate": self.evaluated,
        }
        return {name: stage.result for name, stage in stages.items()}


def served_states(hidden: Floats) -> Floats:
    """The states as whole-catalogue retrieval sees them: int8 items meet an int8 query."""
    return dequantize_rows(quantize_rows(hidden))


def _table(model: SASRec) -> Floats:
    result: Floats = model.table.detach().numpy()
    return result
