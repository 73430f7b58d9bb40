"""Scores one request in every size a batch may have, so that no caller is the first of a size."""

from __future__ import annotations

import time
from typing import Final

from tierline import TierlineError
from tierline.wire import ScoreRequest
from tierline_serving.batching.limits import BatchLimits
from tierline_serving.scorer import Scorer

BUCKETS: Final = (1, 8, 32, 128, 512, 2048)  # rows
WARM_UP_LIMIT: Final = 60.0  # seconds: larger sizes are left out when the smaller took so long


def batches(rows: int, limits: BatchLimits) -> list[int]:
    """How many copies of a request of ``rows`` rows make a batch of each bucket, without repeats;
    none is larger than a batch may be, in rows and in requests. Pure."""
    most = limits.max_batch_rows
    sizes = {*(size for size in BUCKETS if size < most), most}
    return sorted({max(1, min(size // rows, limits.max_batch_requests)) for size in sizes})


def warm(scorer: Scorer, request: ScoreRequest, limits: BatchLimits) -> int:
    """Score the request alone and in company, on this thread; how many batches there were.

    Raises what the scorer raises. Nobody else may be using the scorer.
    """
    scorer.validate(request)
    begun = time.monotonic()
    count = 0
    for copies in batches(scorer.rows(request), limits):
        if count and time.monotonic() - begun > WARM_UP_LIMIT:
            break
        replies = scorer.score([request] * copies)
        if len(replies) != copies:
            raise TierlineError(f"the scorer answered {len(replies)} of {copies} requests")
        count += 1
    return count
