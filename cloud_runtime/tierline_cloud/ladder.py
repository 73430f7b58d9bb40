"""The compression ladder: what each rung costs in bytes and time, what it keeps of the cloud."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from tierline import ConfigurationError
from tierline_cloud.compression import (
    CompactTable,
    Latency,
    NarrowEdge,
    NodePath,
    Rung,
    compact_table,
    factorise,
    is_size_only,
    measure_latency,
    prune_inner,
    quantize_encoder,
    quantize_weights,
)
from tierline_cloud.evaluation import (
    Ranking,
    agreement_loss,
    paired_retention,
    ranking_metrics,
)
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.export import (
    EdgeSession,
    Floats,
    batch_parity,
    compare,
    export_edge,
    require_batch_invariance,
    require_parity,
    torch_outputs,
)
from tierline_cloud.factory import Factory, served_states
from tierline_cloud.models.edge import EdgeModel
from tierline_cloud.models.near import edge_neighbours
from tierline_cloud.models.network import Network
from tierline_cloud.models.sasrec import SASRec
from tierline_cloud.networks import item_rows
from tierline_cloud.stages import Result, Stage, content_key
from tierline_kernels import RowwiseInt8
from tierline_serving.neighbours import NeighbourTable

LADDER_FILE = "ladder.json"  # in the folder of a run
FORMAT = 2  # raise it when a rung is made otherwise
PARITY_USERS, VARIANCE_USERS, TIMED_USERS = 2048, 128, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shrunk:
    """An encoder before its graph is quantised, and the float32 item rows that go with it."""

    encoder: nn.Module
    rows: Floats


class Ladder:
    """The rungs of one finished training run. Everything is judged on the users whose histories
    gave no activation range."""

    def __init__(self, factory: Factory, rungs: Sequence[Rung]) -> None:
        self.factory, self.rungs = factory, tuple(rungs)
        self._made: dict[Rung, Stage] = {}
        users = len(factory.split.test_target)
        self.range_users = factory.range_users
        self.judged = np.setdiff1d(np.arange(users), self.range_users)

    def report(self, *, timed: bool = True) -> dict[str, Any]:
        """Make what is not made yet; sizes, quality and (measured now) latency of every rung."""
        rows = []
        for rung in self.rungs:
            row = dict(self._stage(rung).result)
            if timed:
                points = self._latency(rung)
                row["latency"] = [asdict(point) for point in points]
                row["size_only"] = is_size_only(points)
            rows.append(row)
        return {
            "of": _networks_key(self.factory),
            "cloud": self._cloud(),
            "judged_users": int(self.judged.size),
            "rungs": rows,
        }

    def _cloud(self) -> Result:
        """What the rungs are held against: the cloud as served, network and neighbours."""
        factory = self.factory
        members = [factory.cloud] if factory.again is None else [factory.cloud, factory.again]
        network = sum((each.folder / "model.safetensors").stat().st_size for each in members)
        neighbours = (factory.baselines.folder / "knn.safetensors").stat().st_size
        ranks = Ranking.load(factory.blend.folder / "test").ranks[self.judged]
        return {
            "bytes": {"network": network, "neighbours": neighbours},
            "test": ranking_metrics(ranks),
        }

    def _stage(self, rung: Rung) -> Stage:
        if rung not in self._made:
            self._made[rung] = self._run(rung)
        return self._made[rung]

    def _run(self, rung: Rung) -> Stage:
        inputs = {"rung": rung.to_json(), "format": FORMAT, "seed": self.factory.seed}
        after = (self._encoder(rung), self.factory.blend)

        def make(folder: Path, key: str) -> Result:
            return self._make(rung, folder)

        return self.factory.store.run(f"rung-{rung.name}", make, inputs=inputs, after=after)

    def _network_stage(self, rung: Rung) -> Stage:
        factory = self.factory
        stages = {"cloud": factory.cloud, "edge": factory.edge, "distilled": factory.distilled}
        stage = stages[rung.network]
        if stage is None:
            raise ConfigurationError(
                f"rung {rung.name}: this recipe trains no edge from labels; take the network "
                "cloud or distilled"
            )
        return stage

    def _make(self, rung: Rung, folder: Path) -> Result:
        factory, target = self.factory, folder / "model.onnx"
        encoder = self._encoder(rung)
        rows = load_file(encoder.folder / "rows.safetensors")["rows"]
        table = compact_table(rows, rung.table, self._states(encoder, rows))
        self._quantise_graph(rung, encoder.folder / "float32.onnx", target, table.rows)
        _save_table(folder, table)
        session = EdgeSession(target, table.rows)
        near = self._neighbours(rung)
        together = batch_parity(session.run, factory.ids[:VARIANCE_USERS], table.rows, near)
        require_batch_invariance(together)
        ranking = self._rank(session, table, near)
        ranking.save(folder / "test")
        return {
            **asdict(rung),
            "dim": rows.shape[1],
            **self._sizes(rung, target, table, near),
            **self._quality(rung, ranking),
            "parity": encoder.result["parity"],
            "batch_variance": together.largest_difference,
        }

    def _states(self, encoder: Stage, rows: Floats) -> Floats:
        """What the range users' histories are encoded as: states that item rows will meet."""
        session = EdgeSession(encoder.folder / "float32.onnx", rows)
        return session.run(self.factory.ids[self.range_users]).hidden

    def _encoder(self, rung: Rung) -> Stage:
        """The float32 graph and rows that all rungs with this network, rank and pruning share."""
        inputs = {
            "rank": rung.rank,
            "prune": rung.prune,
            "format": FORMAT,
            "seed": self.factory.seed,
        }
        name = f"encoder-{rung.network}-{rung.rank or 'whole'}-{rung.prune:g}"

        def make(folder: Path, key: str) -> Result:
            shrunk = self._shrink(rung)
            save_file({"rows": shrunk.rows}, folder / "rows.safetensors")
            return {"parity": self._export(shrunk, folder / "float32.onnx")}

        after = (self._network_stage(rung), self.factory.router)
        return self.factory.store.run(name, make, inputs=inputs, after=after)

    def _shrink(self, rung: Rung) -> _Shrunk:
        """Prune, then factorise: each sees what the one before left."""
        model = self.factory.network(self._network_stage(rung))
        if rung.prune:
            if not isinstance(model, SASRec):
                raise ConfigurationError(f"rung {rung.name}: only a SASRec has units to prune")
            ids = torch.from_numpy(self.factory.ids[self.range_users])
            model = prune_inner(model, rung.prune, ids)
        edge, rows = self._edge_model(rung, model), item_rows(model)
        if rung.rank is None:
            return _Shrunk(encoder=edge, rows=rows)
        factors = factorise(rows, rung.rank)
        return _Shrunk(encoder=NarrowEdge(edge, factors).eval(), rows=factors.rows)

    def _edge_model(self, rung: Rung, model: Network) -> EdgeModel:
        """With the trained uncertainty head where there is one; else with one of the same size."""
        torch.manual_seed(self.factory.seed)
        edge = EdgeModel(model).eval()
        if rung.network == "distilled":
            edge.head.load_state_dict(self.factory.edge_model.head.state_dict())
        return edge

    def _export(self, shrunk: _Shrunk, path: Path) -> Result:
        factory, rows = self.factory, shrunk.rows
        length = factory.recipe.max_history
        export_edge(shrunk.encoder, path, max_history=length, dim=rows.shape[1])
        ids = factory.ids[:PARITY_USERS]
        said = EdgeSession(path, rows).run(ids)
        parity = compare(torch_outputs(shrunk.encoder, ids, rows), said, rows)
        require_parity(parity)
        return asdict(parity)

    def _quantise_graph(self, rung: Rung, source: Path, target: Path, rows: Floats) -> None:
        match rung.graph:
            case "float32":
                target.write_bytes(source.read_bytes())
            case "int8-static":
                quantize_encoder(
                    source, target, self.factory.calibration_batches(self.factory.ids, rows)
                )
            case "weights-8":
                quantize_weights(source, target, bits=8)
            case "weights-4":
                quantize_weights(source, target, bits=4)

    def _neighbours(self, rung: Rung) -> NeighbourTable | None:
        """What the rung's edge carries: the recipe's, or fewer of them that say as much."""
        whole = self.factory.neighbours
        if rung.neighbours and (rung.network != "distilled" or whole is None):
            raise ConfigurationError(
                f"rung {rung.name}: only a distilled network is taught with neighbours, by a "
                "recipe whose neighbours are not 0"
            )
        if rung.network != "distilled" or whole is None or rung.neighbours == 0:
            return None
        if rung.neighbours is None:
            return whole
        factory = self.factory
        assert factory.served.neighbours is not None  # of a blend
        return edge_neighbours(
            factory.served.neighbours.knn, factory.split.train, each=rung.neighbours,
            weight=whole.weight, floor=whole.floor,
        )  # fmt: skip

    def _rank(
        self, session: EdgeSession, table: CompactTable, near: NeighbourTable | None
    ) -> Ranking:
        hidden = session.run(self.factory.ids).hidden
        if isinstance(table.served, RowwiseInt8):
            hidden = served_states(hidden)
        return self.factory.rank(hidden, table.rows, near)

    def _sizes(
        self, rung: Rung, graph: Path, table: CompactTable, near: NeighbourTable | None
    ) -> Result:
        """Bytes by component, and how many times smaller than: the float32 table and the float32
        weights of the network it is made from, and the cloud as served."""
        sizes = {"table": table.bytes, "graph": graph.stat().st_size}
        if near is not None:
            sizes["neighbours"] = near.nbytes
        stage = self._network_stage(rung)
        own, whole = (stage.folder / "model.safetensors").stat().st_size, sum(sizes.values())
        return {
            "bytes": sizes,
            "table_times": self.factory.network(stage).table.nbytes / table.bytes,
            "network_times": own / whole,
            "cloud_times": sum(self._cloud()["bytes"].values()) / whole,
        }

    def _quality(self, rung: Rung, ranking: Ranking) -> Result:
        """NDCG@10 kept of the cloud as served and of the float32 network the rung is made from."""
        own = Ranking.load(self._network_stage(rung).folder / "test").of(self.judged)
        cloud = Ranking.load(self.factory.blend.folder / "test").of(self.judged)
        ours = ranking.of(self.judged)
        kept = ndcg(ours.ranks, 10)
        return {
            "test": ranking_metrics(ours.ranks),
            "retention": asdict(paired_retention(kept, ndcg(cloud.ranks, 10))),
            "own_retention": asdict(paired_retention(kept, ndcg(own.ranks, 10))),
            "loss_against_float32": float(agreement_loss(ours.top, own.top).mean()),
            "loss_against_cloud": float(agreement_loss(ours.top, cloud.top).mean()),
        }

    def _latency(self, rung: Rung) -> list[Latency]:
        """Beside the float32 form of the network the rung is made from."""
        control = Rung(
            name=f"{rung.network}-control", network=rung.network, table="float32", graph="float32"
        )
        ours, theirs = (
            _node_path(self._stage(each).folder, self._neighbours(each)) for each in (rung, control)
        )
        users = self.factory.groups.report[:TIMED_USERS]
        return measure_latency(ours, theirs, self.factory.ids[users])


def known_ladder(factory: Factory) -> dict[str, Any] | None:
    """What `tierline compress` last found for the very networks of this run; None: nothing."""
    try:
        document = json.loads((factory.out / LADDER_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    same = isinstance(document, dict) and document.get("of") == _networks_key(factory)
    found: dict[str, Any] | None = document if same else None
    return found


def _networks_key(factory: Factory) -> str:
    return content_key(factory.blend.key, factory.distilled.key)


def _save_table(folder: Path, table: CompactTable) -> None:
    served = table.served
    arrays: dict[str, NDArray[Any]] = {}  # Any: each array has a type of its own
    if not isinstance(served, RowwiseInt8):
        arrays["values"] = served
    else:
        arrays |= {"codes": served.codes, "scales": served.scales}
        if served.biases is not None:
            arrays["biases"] = served.biases
    save_file(arrays, folder / "table.safetensors")


def _node_path(folder: Path, near: NeighbourTable | None) -> NodePath:
    arrays = load_file(folder / "table.safetensors")
    if "values" in arrays:
        return NodePath(folder / "model.onnx", arrays["values"], near)
    table = RowwiseInt8(arrays["codes"], arrays["scales"], arrays.get("biases"))
    return NodePath(folder / "model.onnx", table, near)
