"""Micro-batching: `batcher` decides, `runner` acts on a thread, `isolation` finds the offender."""

from tierline_serving.batching.batcher import Batch, Batcher, BatchLimits, Refusal
from tierline_serving.batching.isolation import Isolated, score_each
from tierline_serving.batching.runner import BatchReport, Runner

__all__ = [
    "Batch",
    "BatchLimits",
    "BatchReport",
    "Batcher",
    "Isolated",
    "Refusal",
    "Runner",
    "score_each",
]
