"""What a caller is told whose request is not queued."""

from __future__ import annotations

from tierline import BadRequest, CallError, DeadlineExceeded
from tierline_serving.admission import Decision, Shed, Verdict
from tierline_serving.batching.limits import BatchLimits, Refusal


def decided(decision: Decision) -> CallError | None:
    """The error a decision of the admission stands for; None when it admits."""
    if decision.verdict is Verdict.DEADLINE_PASSED:
        return DeadlineExceeded("the deadline had passed before the request could be queued")
    if decision.verdict is Verdict.OVERLOADED:
        message = "the deadline cannot be met behind what is queued"
        return Shed("deadline_unreachable", message, decision.retry_after, decision.queue)
    return None


def refused(refusal: Refusal, rows: int, size: int, limits: BatchLimits, wait: float) -> CallError:
    """The error for a request of ``rows`` rows and ``size`` bytes that the batcher refused; the
    queue is through in ``wait`` seconds."""
    if refusal is Refusal.TOO_LARGE:
        return BadRequest(
            f"the request costs {rows} rows and {size} bytes; the whole queue here takes "
            f"{limits.max_queue_rows} and {limits.max_queue_bytes}: ask in smaller parts"
        )
    if refusal is Refusal.DEADLINE_PASSED:
        return DeadlineExceeded("the deadline had passed before the request could be queued")
    return Shed(refusal.name.lower(), refusal.value, wait, wait)


def overtaken(wait: float) -> CallError:
    """The error for a queued request that cannot be in time any more behind newer ones of a more
    critical class; one asked now would wait ``wait`` seconds."""
    return Shed("overtaken", "more critical calls took its place in the queue", wait, wait)
