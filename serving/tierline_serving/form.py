"""Tells which form of Tierline runs: the plain sources, or what was compiled from them."""

from __future__ import annotations

from types import FunctionType

from tierline_serving.batching.batcher import Batcher


def is_compiled() -> bool:
    """Whether the modules a request passes run as machine code. They are compiled together or not
    at all: their code is in one library."""
    return not isinstance(Batcher.offer, FunctionType)
