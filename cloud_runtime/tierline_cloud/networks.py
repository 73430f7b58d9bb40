"""The first half of the factory: from interaction data to trained networks, resumable."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tierline_cloud.blending import mixtures
from tierline_cloud.data import (
    GLOBAL_TIME,
    LEAVE_ONE_OUT,
    Sequences,
    Split,
    UserGroups,
    generate_shop,
    group_users,
    pad_left,
    read_interactions,
    split_by,
)
from tierline_cloud.data.ingest import DataError
from tierline_cloud.data.sequences import Ids
from tierline_cloud.data.synthetic import write_s3rec
from tierline_cloud.evaluation import (
    Ranking,
    factor_scores,
    rank_catalogue,
    ranking_metrics,
)
from tierline_cloud.export import Floats
from tierline_cloud.models.baselines import ItemKnn, popularity_prior
from tierline_cloud.models.blend import CloudModel, Neighbours, blended
from tierline_cloud.models.ensemble import Ensemble, EnsembleConfig
from tierline_cloud.models.near import boosted, load_neighbours
from tierline_cloud.models.network import Network, Shape, build, make_shape, with_rows
from tierline_cloud.models.sasrec import SASRec
from tierline_cloud.neighbourhood import choose_neighbours
from tierline_cloud.pretraining import pretrain
from tierline_cloud.recipes import EVERY_EVENT, ModelShape, Recipe
from tierline_cloud.stages import Result, Stage, StageStore, content_key, file_digest
from tierline_cloud.training import TrainConfig, train_network
from tierline_cloud.training.console import Console
from tierline_cloud.training.distillation import Distillation
from tierline_cloud.training.lessons import Lesson
from tierline_cloud.training.listwise import ListwiseDistillation
from tierline_cloud.training.loop import hidden_states
from tierline_cloud.training.starting import fitted, read_weights
from tierline_cloud.training.world import SOLO, World
from tierline_serving.neighbours import NeighbourTable

DISTILLATION_DROPOUT = 0.1  # the teacher's distribution is regularisation enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the data comes from: a file in one of DATA_FORMATS, or None for the made-up shop."""

    path: Path | None
    kind: str | None = None


class Networks:
    """The data and the trained networks of one run under ``out``. Every stage reads what earlier
    ones left on disk."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        out: Path,
        console: Console,
        *,
        seed: int = 0,
        start: Path | None = None,
        world: World = SOLO,
    ) -> None:
        """``start`` is a bundle or checkpoint to fine-tune the cloud's network from."""
        self.source, self.recipe, self.out, self.console = source, recipe, out, console
        self.seed, self.start, self.world = seed, start, world
        self.store = StageStore(out / "stages", console, world)

    def go_on_alone(self) -> None:
        """The other ranks have gone: this one runs what is left as a process by itself does."""
        self.world = World(device=self.world.device)
        self.store = StageStore(self.out / "stages", self.console, self.world)

    # ── data ──────────────────────────────────────────────────────────────────────────────────
    @cached_property
    def ingest(self) -> Stage:
        path = self.source.path
        if path is not None and not path.is_file():
            raise DataError(f"{path} is no file: give the interactions' path, or --synthetic")
        what = asdict(self.recipe.shop) if path is None else {"sha256": file_digest(path)}
        inputs = {**what, "kind": self.source.kind}
        if self.recipe.split != LEAVE_ONE_OUT:  # which goes without saying, as before
            inputs["split"] = self.recipe.split
        return self.store.run("ingest", self._ingest, inputs=inputs)

    def _ingest(self, folder: Path, key: str) -> Result:
        if self.source.path is None:
            sequences = generate_shop(self.recipe.shop)
            write_s3rec(sequences, self.out / "synthetic.txt")
        else:
            sequences = read_interactions(self.source.path, self.source.kind)
        np.save(folder / "items.npy", sequences.items)
        np.save(folder / "offsets.npy", sequences.offsets)
        if sequences.times is not None:
            np.save(folder / "times.npy", sequences.times)
        elif self.recipe.split == GLOBAL_TIME:
            raise DataError("a global-time split needs data with timestamps; use leave-one-out")
        return {
            "users": len(sequences),
            "items": sequences.n_items,
            "events": int(sequences.items.size),
            "split": self.recipe.split,
        }

    @cached_property
    def split(self) -> Split:
        folder = self.ingest.folder
        timed = self.recipe.split == GLOBAL_TIME
        sequences = Sequences(
            items=np.load(folder / "items.npy"),
            offsets=np.load(folder / "offsets.npy"),
            n_items=int(self.ingest.result["items"]),
            times=np.load(folder / "times.npy") if timed else None,
        )
        return split_by(self.recipe.split, sequences)

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
        return self.store.run("baselines", self._baselines, inputs=inputs, after=(self.ingest,))

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
    def pretrained(self) -> Stage | None:
        """Item rows for the cloud to begin with, when the recipe wants any."""
        return None if self.recipe.pretrain == "none" else pretrain(self)

    @cached_property
    def cloud(self) -> Stage:
        """The cloud's network, from random weights, pre-trained rows or those of ``start``."""
        recipe, shape = self.recipe, self.shape(self.recipe.cloud)
        if self.start is None and self.pretrained is None:
            return self.train("cloud", recipe.cloud, recipe.cloud_training)
        torch.manual_seed(recipe.cloud_training.seed)
        fresh = build(shape)
        if self.start is not None:
            start, after = fitted(read_weights(self.start), fresh.state_dict()), (self.ingest,)
            inputs = {"from": content_key({n: _digest(start[n]) for n in sorted(start)})}
        else:
            assert self.pretrained is not None
            rows = load_file(self.pretrained.folder / "rows.safetensors")["rows"]
            start, after, inputs = with_rows(fresh, rows), (self.pretrained,), {}
        return self.train(
            "cloud", recipe.cloud, recipe.cloud_training, start=start, after=after, inputs=inputs
        )

    @cached_property
    def first_blend(self) -> Stage:
        """The cloud's first network with the neighbours, their weight chosen on the validation
        slot: what is served, or teaches the second network."""
        return self._blend_stage("blend", (self.cloud,))

    @cached_property
    def again(self) -> Stage | None:
        """The cloud's second network, when the recipe wants one: taught by the first blend, and
        beginning with the item rows of the first network where they are as long."""
        recipe = self.recipe
        if recipe.again is None or recipe.again_training is None:
            return None
        torch.manual_seed(recipe.again_training.seed)
        fresh, rows = build(self.shape(recipe.again)), self.cloud_network.table.detach()
        start = with_rows(fresh, rows) if recipe.again.dim == recipe.cloud.dim else None
        lesson = ListwiseDistillation(teacher=self._served(self.first_blend), label=recipe.label)
        return self.train(
            "again", recipe.again, recipe.again_training, lesson=lesson, start=start,
            after=(self.first_blend,), inputs={"label": str(recipe.label)},
        )  # fmt: skip

    @cached_property
    def blend(self) -> Stage:
        """What the cloud serves: its network or networks, and the neighbours."""
        if self.again is None:
            return self.first_blend
        return self._blend_stage("ensemble", (self.cloud, self.again))

    def _blend_stage(self, name: str, members: tuple[Stage, ...]) -> Stage:
        def make(folder: Path, key: str) -> Result:
            networks = [self._sasrec(member) for member in members]
            found = mixtures(
                networks,
                self._all_neighbours(1.0),
                self.split.valid_history,
                self.split.valid_target,
            )
            best = max(found, key=lambda mixture: mixture.score)
            model = self._mixed(networks, best.shares, best.weight)
            histories = self.split.test_history
            scores = blended(
                hidden_states(model.network, histories), model.table, histories, model.neighbours
            )
            ranking = rank_catalogue(scores, histories, self.split.test_target)
            ranking.save(folder / "test")
            tried = {
                "/".join(f"{share:g}" for share in (*mixture.shares, mixture.weight)): mixture.score
                for mixture in found
            }
            return {
                "shares": list(best.shares),
                "weight": best.weight,
                "valid_ndcg@10": tried,
                "test": ranking_metrics(ranking.ranks),
            }

        # Since format 2 the shares of the networks are said too.
        return self.store.run(name, make, inputs={"format": 2}, after=(*members, self.baselines))

    def _all_neighbours(self, weight: float) -> Neighbours:
        tensors = load_file(self.baselines.folder / "knn.safetensors")
        return Neighbours.from_tensors(tensors, weight, self.split.train.n_items)

    def _served(self, stage: Stage) -> CloudModel:
        """The cloud of a blend's stage."""
        members = (self.cloud,) if stage is self.first_blend else (self.cloud, self.again)
        networks = [self._sasrec(member) for member in members if member is not None]
        shares = tuple(float(share) for share in stage.result["shares"])
        return self._mixed(networks, shares, float(stage.result["weight"]))

    def _mixed(
        self, networks: list[SASRec], shares: tuple[float, ...], weight: float
    ) -> CloudModel:
        network: SASRec | Ensemble = networks[0]
        if len(networks) > 1:
            shapes = tuple(member.config for member in networks)
            network = Ensemble(EnsembleConfig(members=shapes, shares=shares), networks).eval()
        return CloudModel(network=network, neighbours=self._all_neighbours(weight))

    @property
    def served(self) -> CloudModel:
        """What the cloud is served with."""
        return self._served(self.blend)

    @cached_property
    def edge(self) -> Stage | None:
        """The edge's network from labels; None where it begins as the cloud's second one."""
        training = self.recipe.edge_training
        return None if training is None else self.train("edge", self.recipe.edge, training)

    @property
    def begin(self) -> Stage:
        """The network that the edge's begins as."""
        found = self.edge or self.again
        assert found is not None  # the recipe sees to it
        return found

    @cached_property
    def neighbourhood(self) -> Stage | None:
        """The neighbours that the edge carries, and how much they say; None without any."""
        return choose_neighbours(self) if self.recipe.neighbours else None

    @cached_property
    def neighbours(self) -> NeighbourTable | None:
        """What ``neighbourhood`` left, as the edge is served with."""
        stage = self.neighbourhood
        return None if stage is None else load_neighbours(stage.folder, stage.result["gains"])

    @cached_property
    def distilled(self) -> Stage:
        """The edge's network, taught by what the cloud serves what its neighbours cannot tell."""
        begin, near = self.begin, self.neighbourhood
        shape = replace(self.recipe.edge, dropout=DISTILLATION_DROPOUT)
        weights = load_file(begin.folder / "model.safetensors")
        lesson: Lesson = Distillation(teacher=self.served, student=self.neighbours)
        inputs: dict[str, str] = {}
        if self.recipe.lesson == EVERY_EVENT:
            lesson, inputs = ListwiseDistillation(teacher=self.served), {"lesson": EVERY_EVENT}
        return self.train(
            "distil", shape, self.recipe.distillation, lesson=lesson, start=weights,
            after=(self.blend, begin) if near is None else (self.blend, begin, near),
            inputs=inputs, neighbours=self.neighbours,
        )  # fmt: skip

    def train(
        self,
        name: str,
        shape: ModelShape,
        training: TrainConfig,
        *,
        lesson: Lesson | None = None,
        start: dict[str, Tensor] | None = None,
        after: tuple[Stage, ...] = (),
        inputs: dict[str, str] | None = None,
        neighbours: NeighbourTable | None = None,
    ) -> Stage:
        """One stage that trains a network of this shape; ``inputs`` go into its key. It is judged
        with the ``neighbours`` it is to be served with."""
        config = self.shape(shape)

        def make(folder: Path, key: str) -> Result:
            checkpoint = folder / "checkpoint.safetensors"
            with self.console.track(f"train {name}", training.epochs) as tracker:
                model, report = train_network(
                    config, training, self.split, checkpoint=checkpoint, key=key, tracker=tracker,
                    lesson=lesson, start=start, neighbours=neighbours, world=self.world,
                )  # fmt: skip
            if not self.world.is_writer:
                return {}
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(weights, folder / "model.safetensors")
            states = hidden_states(model, self.split.test_history)
            ranking = self.rank(states, item_rows(model), neighbours)
            ranking.save(folder / "test")
            checkpoint.unlink(missing_ok=True)
            return {"test": ranking_metrics(ranking.ranks), "training": asdict(report)}

        keyed = {"shape": config.to_json(), "training": training.to_json(), **(inputs or {})}
        return self.store.run(name, make, inputs=keyed, after=after or (self.ingest,), by_all=True)

    def shape(self, shape: ModelShape) -> Shape:
        """The recipe's shape with this data's catalogue."""
        return make_shape(
            n_items=self.split.train.n_items, max_history=self.recipe.max_history, **asdict(shape)
        )

    def network(self, stage: Stage) -> Network:
        """The trained network of a stage that trains one."""
        shape = self.recipe.edge
        if stage is self.cloud:
            shape = self.recipe.cloud
        elif stage is self.again and self.recipe.again is not None:
            shape = self.recipe.again
        network = build(self.shape(shape))
        network.load_state_dict(load_file(stage.folder / "model.safetensors"))
        return network.eval()

    def _sasrec(self, stage: Stage) -> SASRec:
        network = self.network(stage)
        assert isinstance(network, SASRec)  # the recipe sees to it
        return network

    @property
    def cloud_network(self) -> SASRec:
        """The cloud's first network."""
        return self._sasrec(self.cloud)

    def rank(
        self, hidden: Floats, table: Floats, neighbours: NeighbourTable | None = None
    ) -> Ranking:
        """The test slot's targets among all unseen items, by state times item row and what
        ``neighbours`` add."""
        histories, targets = self.split.test_history, self.split.test_target
        scores = boosted(factor_scores(hidden, table), histories, neighbours)
        return rank_catalogue(scores, histories, targets)


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def item_rows(model: Network) -> Floats:
    result: Floats = model.table.detach().numpy()
    return result
