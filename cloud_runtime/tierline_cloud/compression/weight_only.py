"""Weight-only graphs: weights in 4 or 8 bits a value, activations in float, by MatMulNBits.

No activation is rounded, so a score cannot depend on who else is in the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx

from tierline_cloud.compression.notes import without_notes
from tierline_cloud.compression.static_int8 import QuantizationError, weight_products

BLOCK = 32  # values that share a scale: the narrowest models are 32 wide
COMPUTE_FLOAT32 = 1  # accuracy_level: 4 would round activations to int8 in blocks


def quantize_weights(source: Path, target: Path, *, bits: Literal[4, 8]) -> int:
    """Write ``source`` with the weights of all products that lead to 'hidden' in ``bits`` bits,
    symmetric, a scale per BLOCK values of a column; returns how many products. Raises
    QuantizationError when there is none."""
    model = onnx.load(source)
    nodes = [
        name for name in weight_products(model, output="hidden") if _kind(model, name) == "MatMul"
    ]
    if not nodes:
        raise QuantizationError("no MatMul with a weight leads to 'hidden': nothing to quantise")
    with _root_logger_kept():
        # Imported here: the module configures the root logger for everybody.
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            model,
            bits=bits,
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=COMPUTE_FLOAT32,
            nodes_to_include=nodes,
        )
        quantizer.process()
    onnx.save(without_notes(quantizer.model.model), target)
    return len(nodes)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Whatever is logged and configured inside, the root logger is as before afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.addHandler(logging.NullHandler())  # with a handler there, basicConfig does nothing
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _kind(model: onnx.ModelProto, name: str) -> str:
    return next(str(node.op_type) for node in model.graph.node if node.name == name)
