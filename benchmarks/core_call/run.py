"""Times what the core decides about one call: begin and one answer, no I/O, median over repeats.

The loop that makes the calls is counted in.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from random import Random
from statistics import median

import numpy as np

from tierline._config import Balancing, ClientConfig, HedgePolicy, Mode, simple_tiers
from tierline._core.call import ScoreCall
from tierline._core.commands import Finish, StartAttempt
from tierline._core.fleet import Fleet
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest

CALLS, REPEATS = 4000, 9


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/core_call/run.py --json -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", choices=["-"], help="print the figures as JSON on the last line")
    options = parser.parse_args()
    figures: dict[str, object] = {
        "plain_us": _cost(None),
        "hedging_us": _cost(HedgePolicy(after=0.05)),
        "calls": CALLS,
        "repeats": REPEATS,
        "python": platform.python_version(),
    }
    print(f"decisions of one call, median of {REPEATS} × {CALLS} calls, CPU time:")
    print(f"  {figures['plain_us']:.1f} µs, with a hedge planned {figures['hedging_us']:.1f} µs")
    if options.json:
        print(json.dumps(figures))
    return 0


def _cost(hedge: HedgePolicy | None) -> float:
    """Microseconds of CPU a call: four edge endpoints, two of a cloud, an answer that is kept."""
    edge = [f"http://10.0.0.{i}:8000" for i in range(1, 5)]
    cloud = [f"http://10.0.1.{i}:8000" for i in range(1, 3)]
    fleet = Fleet(
        ClientConfig(tiers=simple_tiers(edge, cloud, Balancing("least_loaded")), hedge=hedge)
    )
    ids = np.arange(1, 101, dtype=np.int64)
    request = ScoreRequest(
        model="ranker", query={"history": ids[:20]}, candidates={CANDIDATE_IDS: ids}
    )
    reply = ScoreReply(
        model="ranker",
        bundle="1@abc",
        scores=np.linspace(0, 1, 100, dtype=np.float32),
        uncertainty=0.1,
        threshold=0.5,
    )
    dice, spans = Random(1), []
    now = 1000.0
    for _ in range(REPEATS):
        started = time.process_time()
        for _ in range(CALLS):
            now += 0.001
            _one(request, reply, fleet, dice, now)
        spans.append((time.process_time() - started) / CALLS * 1e6)
    return median(spans)


def _one(request: ScoreRequest, reply: ScoreReply, fleet: Fleet, dice: Random, now: float) -> None:
    call = ScoreCall(
        request,
        fleet,
        deadline=now + 0.25,
        mode=Mode.SEQUENTIAL,
        key="user",
        call_id="0" * 16,
        dice=dice,
    )
    first = call.begin(now)[0]
    assert isinstance(first, StartAttempt)
    last = call.attempt_succeeded(first.number, reply, now + 0.003)[-1]
    assert isinstance(last, Finish)


if __name__ == "__main__":
    sys.exit(main())
