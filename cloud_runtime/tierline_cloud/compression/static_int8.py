"""Quantise the edge graph to int8 with fixed activation ranges.

Rule: never dynamic ranges. They are taken per tensor and call, so a score would depend on who
else is in the batch. Only products with weights are quantised; attention, softmax, LayerNorm and
the uncertainty head stay in float, where they cost little and int8 would cost ranking quality.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tierline import TierlineError
from tierline_cloud.compression.notes import without_notes

Feeds = Mapping[str, NDArray[np.float32]]


class QuantizationError(TierlineError):
    """The graph cannot be quantised as promised; the message says why."""


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    def __init__(self, batches: Iterator[Feeds]) -> None:
        self._batches = batches

    def get_next(self) -> Feeds | None:
        return next(self._batches, None)


def quantize_encoder(source: Path, target: Path, batches: Iterator[Feeds]) -> int:
    """Write ``source``'s int8 QDQ form (signed activations and weights, a scale per weight column)
    with ranges seen in ``batches``; returns how many products were quantised. The users behind
    ``batches`` must be no one the result is judged on."""
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        nodes = weight_products(onnx.load(prepared), output="hidden")
        if not nodes:
            raise QuantizationError(
                "no product with a weight leads to 'hidden': nothing to quantise"
            )
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # quantize_static advises on the root logger
        try:
            quantize_static(
                str(prepared),
                str(target),
                _Batches(batches),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_quantize=nodes,
                per_channel=True,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            root.setLevel(level)
    onnx.save(without_notes(onnx.load(target)), target)
    return len(nodes)


def weight_products(model: onnx.ModelProto, *, output: str) -> list[str]:
    """Names of the MatMul and Gemm nodes with a constant weight that ``output`` depends on."""
    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    names, waiting, seen = [], [output], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        waiting.extend(node.input)
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants:
            names.append(node.name)
    return sorted(names)
