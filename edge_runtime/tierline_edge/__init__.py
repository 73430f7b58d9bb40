"""The edge runtime: a verified ONNX bundle, its tables and its doubt, served from one node."""

from tierline_edge.scorer import EdgeScorer, load_scorer

__all__ = ["EdgeScorer", "load_scorer"]
