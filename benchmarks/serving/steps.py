"""What each step of a native call costs on one core, W1, eight calls a batch: µs a call.

Each step is run alone on the request it would get; sockets and the event loop are not in it
(`run.py --only table` has the whole). In a loop a step finds its caches full. Between two batches
it finds what the batch has left of them, and what the core's neighbours have in that time: so each
is also timed once after a batch, and once after as long a wait that touches no memory. The steps
share much of what they miss, so that all in a row cost less than their sum.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import NamedTuple

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
from tierline_serving.form import is_compiled
from tierline_serving.front.heads import read_own
from tierline_serving.front.layouts import Layouts
from tierline_serving.front.native import response_bytes
from tierline_serving.front.replies import Replies
from tierline_serving.metrics import Metrics
from tierline_serving.signing import Trust

BATCH, REPEATS, LOOPS, ONCE = 8, 7, 300, 400

Act = Callable[[], object]


class Step(NamedTuple):
    """Something a call passes; ``calls`` of them at once."""

    act: Act
    calls: int = 1


class Cost(NamedTuple):
    """µs a call: in a loop, once after a batch, once after as long a wait."""

    loop: float
    after_batch: float
    after_wait: float


def main() -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="What each step of a native call costs on one core, µs a call.",
        epilog="Example: PYTHONPATH=build/compiled python benchmarks/serving/steps.py",
    )
    parser.add_argument("--models", type=Path, help="keep the graphs and bundles in this folder")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as made:
        steps, session = prepared(build(options.models or Path(made))["w1_fp32"])
    print(f"{'compiled' if is_compiled() else 'plain sources'}; µs a call")
    print(f"{'':<52}{'in a loop':>10}{'after a batch':>15}{'after a wait':>14}")
    print(f"{f'the session, {BATCH} calls a batch':<52}{looped(session, 20):>10.1f}")
    together = Step(lambda: [step.act() for step in steps.values() if step.calls == 1])
    for name, step in {**steps, "all of one call in a row": together}.items():
        cost = costs(step, session)
        print(f"{name:<52}{cost.loop:>10.1f}{cost.after_batch:>15.1f}{cost.after_wait:>14.1f}")
    return 0


def prepared(workload: Workload) -> tuple[dict[str, Step], Step]:
    """The steps by name, and the session's run of a batch."""
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

    def written_out() -> None:
        replies.encode(reply, 0.001, 0.001)
        response_bytes(answer, keep_alive=True)

    steps = {
        "read the head, find the body": Step(lambda: read_own(message)),
        "deadline and request id from the headers": Step(lambda: head.said(1.0)),
        "open the frame: views of its tensors": Step(lambda: layouts.decode(message, end)),
        "validate: names, types, shapes, every number finite": Step(
            lambda: scorer.validate(request)
        ),
        "admit by deadline, queue, draw the batch": Step(admitting(), BATCH),
        "pack the batch's tensors": Step(lambda: scorer._requests.pack(together), BATCH),
        "the reply's frame and head": Step(written_out),
        "count it": Step(lambda: counted(metrics)),
    }
    return steps, Step(lambda: scorer._session.run(["scores"], packed), BATCH)


def admitting() -> Act:
    """Admission, queue and batch of BATCH calls."""
    admission = Admission(4096)
    batcher: Batcher[int] = Batcher(BatchLimits())
    for rows in (100, 300, 700) * 10:
        admission.observe(rows, rows * 1e-6, 0.0)

    def once() -> None:
        for ticket in range(BATCH):
            admission.decide(100, 2.0, Backlog(batcher.queued_rows), 1.0)
            batcher.offer(ticket, 100, 2.0, 1.0, size=25_856)
        batcher.take(1.0)

    return once


def counted(metrics: Metrics) -> None:
    metrics.began()
    metrics.ended(OK, 0.002, 0.001)


def costs(step: Step, session: Step) -> Cost:
    """What a step costs a call."""
    batch = looped(session, 20) * session.calls
    turns = max(1, round(batch / looped(Step(lambda: waited(1000)), 20) * 1000))
    return Cost(looped(step, LOOPS), once(step, session.act), once(step, lambda: waited(turns)))


def waited(turns: int) -> None:
    """Keep the core for so many turns of a sum over two blocks: no memory to speak of."""
    pbkdf2_hmac("sha256", b"", b"", turns)


def looped(step: Step, loops: int) -> float:
    """The least of REPEATS means, µs a call."""
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.perf_counter()
        for _ in range(loops):
            step.act()
        best = min(best, (time.perf_counter() - begun) / loops)
    return best * 1e6 / step.calls


def once(step: Step, before: Act) -> float:
    """The median of ONCE single runs, each right after ``before``: µs a call."""
    taken = []
    gc.disable()
    try:
        for _ in range(ONCE):
            before()
            begun = time.perf_counter()
            step.act()
            taken.append(time.perf_counter() - begun)
    finally:
        gc.enable()
    return statistics.median(taken) * 1e6 / step.calls


if __name__ == "__main__":
    sys.exit(main())
