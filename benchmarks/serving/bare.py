"""The bare session: answers each batch size read from stdin with requests a second, nothing else.

Runs on the core it was pinned to by who started it; the first measurement warms up.
"""

from __future__ import annotations

import sys
import time

import onnxruntime
from workloads import NAMES, Feed, Workload, one_thread


def rate(session: onnxruntime.InferenceSession, feed: Feed, batch: int, seconds: float) -> float:
    """Requests a second of ``batch`` requests a run."""
    runs, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        session.run(None, feed)
        runs += 1
    return runs * batch / spent


def main(name: str, path: str) -> None:
    """One line ``BATCH SECONDS`` in, one number out."""
    assert name in NAMES, name
    workload = Workload(name=name, onnx=path, bundle=path)
    session = onnxruntime.InferenceSession(path, one_thread(), providers=["CPUExecutionProvider"])
    print("ready 0", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(rate(session, workload.feed(int(batch)), int(batch), float(seconds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
