"""The exported graph says what the model says, whatever the batch; int8 stays close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic

from tierline_cloud.calibration import threshold_for
from tierline_cloud.compression.static_int8 import weight_products
from tierline_cloud.export import (
    BatchVarianceError,
    EdgeOutputs,
    EdgeSession,
    Parity,
    ParityError,
    batch_parity,
    compare,
    require_batch_invariance,
    require_parity,
    torch_outputs,
)
from tierline_cloud.factory import Factory


def test_the_graph_has_the_contracts_names_and_shapes(factory: Factory) -> None:
    graph = onnx.load(factory.quantized.folder / "model.onnx").graph

    def shapes(values: object) -> dict[str, list[object]]:
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in values  # type: ignore[attr-defined]
        }

    assert shapes(graph.input) == {"embedded": ["requests", 12, 8], "mask": ["requests", 12]}
    assert shapes(graph.output) == {"hidden": ["requests", 8], "uncertainty": ["requests"]}


def test_the_float_graph_equals_the_model(factory: Factory) -> None:
    session = EdgeSession(factory.exported.folder / "float32.onnx", factory.rows)
    ids = np.concatenate([factory.ids[:60], np.zeros((1, 12), np.int64)])
    parity = compare(
        torch_outputs(factory.edge_model, ids, factory.rows), session.run(ids), factory.rows
    )
    require_parity(parity)
    assert parity.same_top10 == 1.0


@pytest.mark.parametrize("name", ["export/float32.onnx", "quantize/model.onnx"])
def test_an_answer_does_not_depend_on_its_neighbours(factory: Factory, name: str) -> None:
    session = EdgeSession(factory.out / "stages" / name, factory.rows)
    require_batch_invariance(batch_parity(session.run, factory.ids[:70], factory.rows))


def test_a_graph_with_ranges_taken_per_call_is_refused(factory: Factory, tmp_path: Path) -> None:
    # onnxruntime #10111: one activation scale a call, so a score depends on its neighbours.
    quantize_dynamic(factory.exported.folder / "float32.onnx", tmp_path / "dynamic.onnx")
    session = EdgeSession(tmp_path / "dynamic.onnx", factory.rows)
    parity = batch_parity(session.run, factory.ids[:70], factory.rows)
    with pytest.raises(BatchVarianceError, match="depend on who else is in the batch"):
        require_batch_invariance(parity)


@pytest.mark.parametrize(("gap", "same"), [(2e-5, 1.0), (0.0, 0.99)])
def test_a_difference_or_another_list_in_company_is_refused(gap: float, same: float) -> None:
    with pytest.raises(BatchVarianceError):
        require_batch_invariance(Parity(largest_difference=gap, same_top10=same))


def test_every_product_with_a_weight_is_int8_and_attention_is_not(factory: Factory) -> None:
    model = onnx.load(factory.quantized.folder / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert "DynamicQuantizeLinear" not in kinds
    float_model = onnx.load(factory.exported.folder / "float32.onnx")
    # One block: query, key, value, output, widen, narrow.
    assert factory.quantized.result["products"] == 6
    assert len(weight_products(float_model, output="hidden")) == 6
    assert len(weight_products(float_model, output="uncertainty")) == 8


def test_int8_lists_stay_close_to_float32_lists(factory: Factory) -> None:
    assert factory.quantized.result["loss_against_float32"] < 0.05


def test_a_graph_that_differs_is_refused_with_figures() -> None:
    with pytest.raises(ParityError, match=r"2\.00e-01.*90\.00%"):
        require_parity(Parity(largest_difference=0.2, same_top10=0.9))


def test_compare_sees_a_changed_answer() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 4)).astype(np.float32)
    hidden = rng.normal(size=(10, 4)).astype(np.float32)
    zeros = np.zeros(10, np.float32)
    other = hidden.copy()
    other[3] = -other[3]
    parity = compare(
        EdgeOutputs(hidden=hidden, uncertainty=zeros),
        EdgeOutputs(hidden=other, uncertainty=zeros),
        table,
    )
    assert parity.same_top10 == pytest.approx(0.9)
    assert parity.largest_difference == pytest.approx(2 * np.abs(hidden[3]).max())


def test_the_shipped_table_is_close_to_the_trained_one(factory: Factory) -> None:
    trained = factory.network(factory.distilled).table.detach().numpy()
    step = factory.table.scales[:, None]
    assert np.all(np.abs(factory.rows - trained) <= 0.5 * step + 1e-6)
    assert not factory.rows[0].any()


@pytest.mark.parametrize("escalation", [0.0, 0.15, 0.5, 1.0])
def test_the_threshold_lets_the_wanted_share_through(escalation: float) -> None:
    uncertainty = np.random.default_rng(1).random(1000)
    share = (uncertainty > threshold_for(uncertainty, escalation)).mean()
    assert share == pytest.approx(escalation, abs=0.0015)


def test_a_threshold_without_users_is_refused() -> None:
    with pytest.raises(ValueError, match="no calibration users"):
        threshold_for(np.zeros(0), 0.1)


def test_the_head_learns_what_the_history_foretells(factory: Factory, tmp_path: Path) -> None:
    from tierline_cloud.calibration import HeadConfig, train_head
    from tierline_cloud.evaluation import spearman
    from tierline_cloud.models.edge import EdgeModel

    model = EdgeModel(factory.network(factory.distilled)).eval()
    lengths = (factory.ids > 0).sum(axis=1).astype(np.float64)
    train_head(model, factory.ids, factory.rows, lengths / 12, HeadConfig(steps=200))
    said = torch_outputs(model, factory.ids, factory.rows).uncertainty.astype(np.float64)
    assert spearman(said, lengths) > 0.9
    assert torch.isfinite(torch.from_numpy(said)).all()
