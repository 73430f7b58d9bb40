"""How much one batch, and how much the queue before it, may hold; and what callers are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

CRITICAL, DEFAULT, SHEDDABLE = "critical", "default", "sheddable"  # as tierline.Criticality says
DEFAULT_MAX_BATCH_ROWS = 4096  # 64 requests of 64 candidates: beyond, a batch gains little
DEFAULT_MAX_BATCH_REQUESTS = 64
DEFAULT_MAX_BATCH_BYTES = 16 * 1024 * 1024  # the largest frame
DEFAULT_MAX_QUEUE_ROWS = 65_536  # sixteen full batches: longer queues outlive the deadlines in them
DEFAULT_MAX_QUEUE_REQUESTS = 2048
DEFAULT_MAX_QUEUE_BYTES = 64 * 1024 * 1024
DEFAULT_MAX_QUEUE_SECONDS = 10.0  # who would wait longer is told so at once

# The part of a queue's room each class may fill: what is left is kept for those above it.
ROOM: Final[Mapping[str, float]] = MappingProxyType({CRITICAL: 1.0, DEFAULT: 0.9, SHEDDABLE: 0.5})
# Seconds by which a class's deadlines count as later: it gives way to those above it, and still
# comes to its turn, because newcomers' deadlines are later and later. Never starved, never first.
YIELDS: Final[Mapping[str, float]] = MappingProxyType({CRITICAL: 0.0, DEFAULT: 1.0, SHEDDABLE: 5.0})


class Refusal(Enum):
    """Why an offered request was not queued."""

    DEADLINE_PASSED = "its deadline has passed"
    TOO_LARGE = "it is larger than the whole queue may be"
    FULL_ROWS = "the queue is full (rows)"
    FULL_BYTES = "the queue is full (bytes)"
    FULL_REQUESTS = "the queue is full (requests)"


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """A batch's and a queue's bounds in candidate rows, bytes of tensors, and requests.

    A request of more rows than ``max_batch_rows`` is split, scored in parts and joined again; one
    of more rows or bytes than the whole queue is never accepted. A request that would wait longer
    than ``max_queue_seconds`` is refused.
    """

    max_batch_rows: int = DEFAULT_MAX_BATCH_ROWS
    max_batch_requests: int = DEFAULT_MAX_BATCH_REQUESTS
    max_batch_bytes: int = DEFAULT_MAX_BATCH_BYTES
    max_queue_rows: int = DEFAULT_MAX_QUEUE_ROWS
    max_queue_requests: int = DEFAULT_MAX_QUEUE_REQUESTS
    max_queue_bytes: int = DEFAULT_MAX_QUEUE_BYTES
    max_queue_seconds: float = DEFAULT_MAX_QUEUE_SECONDS

    def __post_init__(self) -> None:
        for name in ("rows", "requests", "bytes"):
            for where in ("batch", "queue"):
                value = getattr(self, f"max_{where}_{name}")
                if value < 1:
                    raise ValueError(f"max_{where}_{name} must be at least 1, got {value}")
        if self.max_queue_rows < self.max_batch_rows:
            raise ValueError(
                f"max_queue_rows must be at least max_batch_rows ({self.max_batch_rows}), "
                f"got {self.max_queue_rows}"
            )
        if not self.max_queue_seconds > 0.0:
            raise ValueError(f"max_queue_seconds must be positive, got {self.max_queue_seconds}")
