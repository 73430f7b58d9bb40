"""Graphs without what their exporter noted: source lines, inferred shapes, paths of machines."""

from __future__ import annotations

import onnx


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without documentation, metadata and inferred shapes; changed in place."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    graph.doc_string = model.doc_string = ""
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    return model
