"""What each step of a native call costs on one core, W1, eight calls a batch: µs a call.

Each step is run alone, in a loop, on the request it would get; sockets and the event loop are not
in it (`run.py --only table` has the whole).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from servers import DEADLINE_MS, own_message
from workloads import Workload, build

from tierline.wire import Limits, ScoreReply
from tierline_edge.scorer import load_scorer
from tierline_edge.tensor import TensorScorer
from tierline_serving.admission import Admission, Backlog
from tierline_serving.answers import OK, scored
from tierline_serving.batching import Batcher, BatchLimits
from tierline_serving.bundle import open_bundle
from tierline_serving.front.heads import read_own
from tierline_serving.front.layouts import Layouts
from tierline_serving.front.native import response_bytes
from tierline_serving.front.replies import Replies
from tierline_serving.metrics import Metrics
from tierline_serving.signing import Trust

BATCH, REPEATS, LOOPS = 8, 7, 300

Figures = dict[str, float]


def main() -> int:
    """Print the table; returns the exit code."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made)
        figures = measure(build(folder)["w1_fp32"])
    for step, cost in figures.items():
        print(f"{step:<56}{cost:>8.1f} µs")
    return 0


def measure(workload: Workload) -> Figures:
    """µs a call of each step."""
    message = own_message(workload.frame(), DEADLINE_MS)
    head = read_own(message)
    assert head is not None
    end = head.end
    bundle = open_bundle(workload.bundle, Trust.from_files([], allow_unsigned=True))
    scorer = load_scorer(bundle, threads=1)
    assert isinstance(scorer, TensorScorer)
    layouts = Layouts(Limits())
    request = layouts.decode(message, end)
    together = [request] * BATCH
    packed = scorer._requests.pack(together)
    reply = ScoreReply(workload.name, bundle.id, np.zeros(100, np.float32))
    replies = Replies()
    written = replies.encode(reply, 0.001, 0.001)
    answer = scored(written, "9a1a211a4cbc3ffb", 0.001, bundle.id, 0.001, 0.001)
    metrics = Metrics()
    return {
        "read the head, find the body": micros(lambda: read_own(message)),
        "deadline, attempt and request id from the headers": micros(lambda: head.said(1.0)),
        "open the frame: views of its tensors": micros(lambda: layouts.decode(message, end)),
        "validate: names, types, shapes, every number finite": micros(
            lambda: scorer.validate(request)
        ),
        "admit by deadline, queue, draw the batch": admitting(),
        "pack the batch's tensors": micros(lambda: scorer._requests.pack(together)) / BATCH,
        "the session": micros(lambda: scorer._session.run(["scores"], packed), 20) / BATCH,
        "the reply's frame and head": micros(lambda: replies.encode(reply, 0.001, 0.001))
        + micros(lambda: response_bytes(answer, keep_alive=True)),
        "count it": micros(lambda: counted(metrics)),
    }


def admitting() -> float:
    """Admission, queue and batch of BATCH calls, µs a call."""
    admission = Admission(4096)
    batcher: Batcher[int] = Batcher(BatchLimits())
    for rows in (100, 300, 700) * 10:
        admission.observe(rows, rows * 1e-6, 0.0)

    def once() -> None:
        for ticket in range(BATCH):
            admission.decide(100, 2.0, Backlog(batcher.queued_rows), 1.0)
            batcher.offer(ticket, 100, 2.0, 1.0, size=25_856)
        batcher.take(1.0)

    return micros(once) / BATCH


def counted(metrics: Metrics) -> None:
    metrics.began()
    metrics.ended(OK, 0.002, 0.001)


def micros(step: Callable[[], object], loops: int = LOOPS) -> float:
    """The least of REPEATS means, µs."""
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.perf_counter()
        for _ in range(loops):
            step()
        best = min(best, (time.perf_counter() - begun) / loops)
    return best * 1e6


if __name__ == "__main__":
    sys.exit(main())
