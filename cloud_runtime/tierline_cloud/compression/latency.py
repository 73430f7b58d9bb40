"""How long a recommendation takes from ids to the best items, beside a control in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tierline_kernels import RowwiseInt8, dot_topk, embedding_lookup
from tierline_serving.boosted import left_out, with_boosted
from tierline_serving.neighbours import NeighbourTable

Ids = NDArray[np.int64]
Served = RowwiseInt8 | NDArray[np.float32] | NDArray[np.float16]
Clock = Callable[[], float]

BATCHES = (1, 8, 64)
BEST = 10
WARM_UP, ROUNDS = 3, 25
SLOWER = 1.05  # times the control's: by up to 3 % the control differs from itself
QUERIES_TOGETHER = 8  # a node scores float tables for this many at a time, so that batches agree


class NodePath:
    """What a node does for a batch without candidates: rows by look-up, the graph, the ten best of
    the whole catalogue without what was seen. One thread, as a busy node has for each batch."""

    def __init__(
        self, graph: Path, table: Served, neighbours: NeighbourTable | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._table, self._neighbours = table, neighbours

    def __call__(self, ids: Ids) -> Ids:
        """Left-padded ids [B, L] → the best items [B, 10]."""
        rows = embedding_lookup(self._table, ids)
        mask = (ids > 0).astype(np.float32)
        hidden = self._session.run(["hidden"], {"embedded": rows, "mask": mask})[0]
        together = len(ids) if isinstance(self._table, RowwiseInt8) else QUERIES_TOGETHER
        parts = [
            self._best(hidden[low : low + together], ids[low : low + together])
            for low in range(0, len(ids), together)
        ]
        return np.concatenate(parts)

    def _best(self, hidden: NDArray[np.float32], ids: Ids) -> Ids:
        # Padding is in the ids, so item 0 is left out with the history.
        seen = ids.reshape(-1), np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
        if self._neighbours is None:
            return dot_topk(hidden, self._table, BEST, exclude=seen).indices
        boosts = self._neighbours.boosts(list(ids))
        found = dot_topk(hidden, self._table, BEST, exclude=left_out(seen, boosts))
        return with_boosted(found, hidden, self._table, boosts, seen).indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Medians in seconds of one batch size, and how many times the control's the rung's is (the
    median over rounds in which each ran once, in turn)."""

    batch: int
    rung: float
    control: float
    ratio: float


def measure_latency(
    rung: NodePath,
    control: NodePath,
    ids: Ids,
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter,
) -> list[Latency]:
    """Both over the same users, alternating, so that what else the machine does hits both."""
    found = []
    for batch in batches:
        asked = np.resize(ids, (batch, ids.shape[1]))
        for _ in range(WARM_UP):
            rung(asked)
            control(asked)
        times = np.array([(_timed(rung, asked, clock), _timed(control, asked, clock))
                          for _ in range(rounds)])  # fmt: skip
        ours, theirs = np.median(times, axis=0)
        found.append(
            Latency(
                batch=batch,
                rung=float(ours),
                control=float(theirs),
                ratio=float(np.median(times[:, 0] / times[:, 1])),
            )
        )
    return found


def is_size_only(latencies: Sequence[Latency]) -> bool:
    """Whether the rung is slower than its float32 control at any batch size."""
    return any(latency.ratio > SLOWER for latency in latencies)


def _timed(path: NodePath, ids: Ids, clock: Clock) -> float:
    began = clock()
    path(ids)
    return clock() - began
