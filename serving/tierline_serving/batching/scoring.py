"""Scores one batch, takes it apart when it fails, and says what it amounted to."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence

from tierline_serving.batching.batcher import Batch
from tierline_serving.batching.isolation import Outcome, score_each
from tierline_serving.batching.pending import Pending
from tierline_serving.scorer import Scorer

_getrusage, _THREAD = resource.getrusage, resource.RUSAGE_THREAD


class BatchReport:
    """One finished batch: its size, the seconds it took, how often the scorer had to run (once, or
    more when it failed and was taken apart), and the seconds its requests waited all together."""

    __slots__ = ("bundle", "compute", "failed", "model", "queue", "requests", "rows", "runs")

    def __init__(
        self,
        model: str,
        requests: int,
        rows: int,
        compute: float,
        runs: int,
        failed: int,
        bundle: str,
        queue: float,
    ) -> None:
        self.model = model
        self.requests = requests
        self.rows = rows
        self.compute = compute
        self.runs = runs
        self.failed = failed
        self.bundle = bundle
        self.queue = queue


def score_batch(
    scorer: Scorer, batch: Batch[Pending], started: float, clock: Callable[[], float]
) -> tuple[Sequence[Outcome], BatchReport]:
    """An outcome for each of the batch's tickets, and the report. Blocks while the model runs."""
    tickets = batch.tickets

    def is_wanted(index: int) -> bool:
        pending = tickets[index]
        return pending.done is not None and pending.deadline_at > clock()

    isolated = score_each(scorer.score, [each.request for each in tickets], is_wanted)
    compute = clock() - started
    waited = 0.0
    for pending in tickets:
        pending.queue = max(0.0, started - pending.submitted_at)
        pending.compute = compute
        waited += pending.queue
    failed = 0
    if isolated.runs > 1 or isinstance(isolated.outcomes[0], Exception):
        failed = sum(isinstance(outcome, Exception) for outcome in isolated.outcomes)
    info = scorer.info
    report = BatchReport(
        info.name, len(tickets), batch.rows, compute, isolated.runs, failed, info.bundle, waited
    )
    return isolated.outcomes, report


def thread_waits() -> int:
    """How often the thread that asks has let go of its core to wait for something."""
    return _getrusage(_THREAD).ru_nvcsw
