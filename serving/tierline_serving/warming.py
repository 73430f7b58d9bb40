"""Scores one request in every size a batch may have, so that no caller is the first of a size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from tierline import TierlineError
from tierline.wire import ScoreRequest
from tierline_serving.scorer import Scorer

BUCKETS: Final = (1, 8, 32, 128, 512, 2048)  # rows
WARM_UP_LIMIT: Final = 60.0  # seconds: larger sizes are left out when the smaller took so long


def batches(rows: int, max_rows: int, buckets: Sequence[int] = BUCKETS) -> list[int]:
    """How many copies of a request of ``rows`` rows make a batch of each bucket, without repeats;
    the largest batch holds ``max_rows`` at the most. Pure."""
    sizes = sorted({*(size for size in buckets if size < max_rows), max_rows})
    return sorted({max(1, min(size, max_rows) // rows) for size in sizes})


def warm(scorer: Scorer, request: ScoreRequest, max_rows: int) -> int:
    """Score the request alone and in company, on this thread; how many batches there were.

    Raises what the scorer raises. Nobody else may be using the scorer.
    """
    scorer.validate(request)
    begun = time.monotonic()
    count = 0
    for copies in batches(scorer.rows(request), max_rows):
        if count and time.monotonic() - begun > WARM_UP_LIMIT:
            break
        replies = scorer.score([request] * copies)
        if len(replies) != copies:
            raise TierlineError(f"the scorer answered {len(replies)} of {copies} requests")
        count += 1
    return count
