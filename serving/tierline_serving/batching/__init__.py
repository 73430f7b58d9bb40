"""Micro-batching: `batcher` decides, `runner` acts on a thread, `isolation` finds the offender."""

from tierline_serving.batching.batcher import Batch, Batcher
from tierline_serving.batching.isolation import Isolated, score_each
from tierline_serving.batching.limits import BatchLimits, Refusal
from tierline_serving.batching.pending import Pending
from tierline_serving.batching.runner import Runner
from tierline_serving.batching.scoring import BatchReport

__all__ = [
    "Batch",
    "BatchLimits",
    "BatchReport",
    "Batcher",
    "Isolated",
    "Pending",
    "Refusal",
    "Runner",
    "score_each",
]
