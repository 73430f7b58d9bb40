"""Making networks small for the edge: tables, graphs, rank, inner units, each a rung's choice."""

from tierline_cloud.compression.latency import Latency, NodePath, is_size_only, measure_latency
from tierline_cloud.compression.low_rank import LowRank, NarrowEdge, factorise
from tierline_cloud.compression.pruning import prune_inner
from tierline_cloud.compression.rungs import DEFAULT_LADDER, Rung
from tierline_cloud.compression.static_int8 import QuantizationError, quantize_encoder
from tierline_cloud.compression.tables import CompactTable, compact_table
from tierline_cloud.compression.weight_only import quantize_weights

__all__ = [
    "DEFAULT_LADDER",
    "CompactTable",
    "Latency",
    "LowRank",
    "NarrowEdge",
    "NodePath",
    "QuantizationError",
    "Rung",
    "compact_table",
    "factorise",
    "is_size_only",
    "measure_latency",
    "prune_inner",
    "quantize_encoder",
    "quantize_weights",
]
