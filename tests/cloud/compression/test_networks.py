"""Pruned, narrowed and weight-only networks mean what the whole network means, but for a little."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch

from tierline_cloud.compression import (
    NarrowEdge,
    QuantizationError,
    factorise,
    prune_inner,
    quantize_weights,
)
from tierline_cloud.compression.notes import without_notes
from tierline_cloud.export import (
    EdgeOutputs,
    EdgeSession,
    batch_parity,
    compare,
    require_batch_invariance,
    torch_outputs,
)
from tierline_cloud.factory import Factory
from tierline_cloud.models.edge import EdgeModel
from tierline_cloud.models.sasrec import SASRec, SASRecConfig


@pytest.fixture(scope="module")
def network() -> SASRec:
    torch.manual_seed(0)
    return SASRec(SASRecConfig(n_items=30, dim=8, blocks=2, max_history=6)).eval()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(1, 31, (40, 6)))


def test_pruning_takes_whole_units_out_of_every_block(network: SASRec, ids: torch.Tensor) -> None:
    smaller = prune_inner(network, 0.5, ids)
    assert [block.widen.weight.shape for block in smaller.blocks] == [(4, 8), (4, 8)]
    assert SASRecConfig(**smaller.config.to_json()) == smaller.config  # type: ignore[arg-type]
    assert "inner" not in network.config.to_json()


def test_units_that_never_speak_are_pruned_for_nothing(ids: torch.Tensor) -> None:
    torch.manual_seed(2)
    model = SASRec(SASRecConfig(n_items=30, dim=8, blocks=2, max_history=6)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.widen.bias[::2] = -1e4  # type: ignore[index]
    smaller = prune_inner(model, 0.5, ids)
    with torch.no_grad():
        assert torch.allclose(smaller.hidden(ids), model.hidden(ids), atol=1e-6)


def test_pruning_errs_less_than_dropping_the_units_that_matter_most(
    network: SASRec, ids: torch.Tensor
) -> None:
    with torch.no_grad():
        whole = network.hidden(ids)
        error = [
            float((prune_inner(network, share, ids).hidden(ids) - whole).square().mean())
            for share in (0.125, 0.5, 0.875)
        ]
    assert error[0] < error[1] < error[2]


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01, 0.99])
def test_pruning_nothing_or_everything_is_refused(
    network: SASRec, ids: torch.Tensor, share: float
) -> None:
    with pytest.raises(ValueError, match="inner units leaves"):
        prune_inner(network, share, ids)


def test_a_table_of_low_rank_is_kept_whole() -> None:
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(20, 3)) @ rng.normal(size=(3, 8)) + rng.normal(size=8)).astype("f4")
    table[0] = 0.0
    factors = factorise(table, 3)
    assert not factors.rows[0].any()
    assert factors.rows[1:] @ factors.basis.T + factors.mean == pytest.approx(table[1:], abs=1e-5)


@pytest.mark.parametrize("rank", [0, 8, 9])
def test_a_rank_that_narrows_nothing_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=r"rank must be in 1\.\.7"):
        factorise(np.zeros((5, 8), np.float32), rank)


def test_a_narrow_edge_ranks_as_the_wide_one_where_nothing_was_lost(
    network: SASRec, ids: torch.Tensor
) -> None:
    rng = np.random.default_rng(4)
    table = np.zeros((31, 8), np.float32)
    table[1:] = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 8)) + rng.normal(size=8)
    factors = factorise(table, 4)
    edge = EdgeModel(network).eval()
    narrow = NarrowEdge(edge, factors).eval()
    asked = ids.numpy().copy()
    asked[:5, :4] = 0
    wide_said = torch_outputs(edge, asked, table)
    narrow_said = torch_outputs(narrow, asked, factors.rows)
    assert narrow_said.uncertainty == pytest.approx(wide_said.uncertainty, abs=1e-5)
    gap = wide_said.hidden @ table[1:].T - narrow_said.hidden @ factors.rows[1:].T
    # Equal but for a constant of each request, which moves no rank.
    assert gap - gap[:, :1] == pytest.approx(np.zeros_like(gap), abs=1e-4)


@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.05), (4, 0.6)])
def test_a_weight_only_graph_stays_close_and_knows_no_neighbours(
    factory: Factory, tmp_path: Path, bits: Literal[4, 8], allowed: float
) -> None:
    source, target = factory.exported.folder / "float32.onnx", tmp_path / "weights.onnx"
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    assert quantize_weights(source, target, bits=bits) == 6
    assert (root.level, list(root.handlers)) == before
    kinds = [node.op_type for node in onnx.load(target).graph.node]
    assert kinds.count("MatMulNBits") == 6
    asked, rows = factory.ids[:70], factory.rows
    session = EdgeSession(target, rows)
    said = session.run(asked)
    whole = torch_outputs(factory.edge_model, asked, rows)
    assert 0 < compare(whole, said, rows).largest_difference < allowed
    require_batch_invariance(batch_parity(session.run, asked, rows))


def test_a_graph_without_weights_has_nothing_to_quantise(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["hidden"], name="relu")
    value = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in ("x", "hidden")]
    graph = onnx.helper.make_graph([node], "empty", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "graph.onnx")
    with pytest.raises(QuantizationError, match="nothing to quantise"):
        quantize_weights(tmp_path / "graph.onnx", tmp_path / "out.onnx", bits=8)


def test_exported_graphs_name_no_file_of_the_machine(factory: Factory) -> None:
    for stage, name in ((factory.exported, "float32.onnx"), (factory.quantized, "model.onnx")):
        content = (stage.folder / name).read_bytes()
        assert b"site-packages" not in content
        assert b"File " not in content  # how a source line is noted


def test_notes_are_taken_out_and_the_graph_stays(factory: Factory) -> None:
    model = onnx.load(factory.exported.folder / "float32.onnx")
    model.graph.node[0].doc_string = "a note"
    names = [node.name for node in model.graph.node]
    assert [node.name for node in without_notes(model).graph.node] == names
    assert not model.graph.node[0].doc_string


def test_a_pair_of_rows_stands_for_one_alone_where_one_is_summed_otherwise() -> None:
    table = np.eye(4, dtype=np.float32)

    def ask(ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]], batch: int) -> EdgeOutputs:
        slip = 1e-3 if batch == 1 else 0.0
        hidden = table[ids[:, -1]] + np.float32(slip)
        return EdgeOutputs(hidden=hidden, uncertainty=np.zeros(len(ids), np.float32))

    ids = np.array([[1], [2], [3]], np.int64)
    assert batch_parity(ask, ids, table).largest_difference == 0.0
