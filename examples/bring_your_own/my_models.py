"""Two models of one task, as anyone might have them: a small ONNX graph and a larger torch module.

The task: how much a user (8 numbers) likes a product (8 numbers). The edge knows a plain dot
product; the cloud also knows how features act on each other.
"""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto, helper

FEATURES = 8
OPSET = 18


def edge_graph() -> bytes:
    """ONNX bytes: scores = user · item, and how unsure: exp(−|score|), 1 when nothing is known."""
    floats = TensorProto.FLOAT
    shape: list[str | int | None] = ["rows", FEATURES]
    nodes = [
        helper.make_node("Mul", ["user", "item"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["scores"], keepdims=0),
        helper.make_node("Abs", ["scores"], ["size"]),
        helper.make_node("Neg", ["size"], ["minus"]),
        helper.make_node("Exp", ["minus"], ["uncertainty"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dot",
        inputs=[helper.make_tensor_value_info(name, floats, shape) for name in ("user", "item")],
        outputs=[
            helper.make_tensor_value_info(name, floats, ["rows"])
            for name in ("scores", "uncertainty")
        ],
        initializer=[helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


class Taste(torch.nn.Module):
    """user · item + userᵀ W item, with W learned (here: drawn once, and saved)."""

    def __init__(self) -> None:
        super().__init__()
        self.interactions = torch.nn.Linear(FEATURES, FEATURES, bias=False)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """float32 [rows, 8] twice → scores float32 [rows]."""
        scores: torch.Tensor = (user * (item + self.interactions(item))).sum(-1)
        return scores


def build() -> torch.nn.Module:
    """What the cloud bundle's ``runtime.factory`` names; the server loads the weights into it."""
    return Taste()
