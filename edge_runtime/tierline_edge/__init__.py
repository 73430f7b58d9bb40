"""The edge runtime: a verified ONNX bundle, its tables and its doubt, served from one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierline_edge.scorer import EdgeScorer, load_scorer

__all__ = ["EdgeScorer", "load_scorer"]


def __getattr__(name: str) -> object:
    """Load the scorer when it is asked for: `tierline --help` reads this package's command where
    ONNX Runtime may not be installed."""
    if name in __all__:
        from tierline_edge import scorer

        return getattr(scorer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
