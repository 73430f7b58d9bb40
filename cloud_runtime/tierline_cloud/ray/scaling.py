"""How many replicas a deployment wants, from how long its requests wait. Pure.

The number that matters to a caller is the time his request waits before it is scored. It says when
there are too few replicas; once nobody waits it says nothing of how many are too many, so the share
of time the scorers compute decides downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tierline_serving.batching import BatchReport

GROWTH: Final = 2.0  # times the running replicas, at most, in one step: a burst is not a trend
SHRINK: Final = 0.5  # of the running replicas are kept in one step, at least
CALM: Final = 0.5  # of the goal: above it nothing shrinks, or each step down would be taken back

DELAY, BUSY, COST = "tierline_queue_delay", "tierline_busy", "tierline_request_cost"


class Load(NamedTuple):
    """One replica over a short while: the seconds a request waited, the share of the time its
    scorers computed (0 to 1), and the seconds of computing a request cost."""

    delay: float
    busy: float
    cost: float = 0.0

    def named(self) -> dict[str, float]:
        """As a replica reports it."""
        return {DELAY: self.delay, BUSY: self.busy, COST: self.cost}


def read_loads(metrics: Mapping[str, Mapping[object, float]]) -> list[Load]:
    """The loads of the replicas that have reported, from values by name and replica."""
    busy, cost = metrics.get(BUSY, {}), metrics.get(COST, {})
    return [
        Load(delay, busy.get(replica, 0.0), cost.get(replica, 0.0))
        for replica, delay in metrics.get(DELAY, {}).items()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What scaling aims at: requests wait ``delay`` seconds, scorers compute ``busy`` of the time.
    Raises ValueError."""

    delay: float = 0.010  # an eighth of the SDK's usual 80 ms
    busy: float = 0.7  # beyond, waiting grows faster than load (M/M/1: ρ ÷ (1 − ρ))

    def __post_init__(self) -> None:
        if not self.delay > 0.0:
            raise ValueError(f"the delay aimed at must be positive, got {self.delay}")
        if not 0.0 < self.busy < 1.0:
            raise ValueError(f"the busy share must be between 0 and 1, got {self.busy}")


def replicas_wanted(
    loads: Sequence[Load], *, running: int, target: int, queued: float, goals: Goals
) -> int:
    """The replicas wanted, at least 1, where ``running`` are up, ``target`` were wanted so far and
    ``queued`` requests wait at the proxies. Bounds and patience are the caller's.

    Without a report nothing is known and nothing changes.
    """
    if not loads or running < 1:
        return target
    busy = sum(load.busy for load in loads) / len(loads)
    cost = sum(load.cost for load in loads) / len(loads)
    # What waits at the proxies is scored after what waits at the replicas, by all of them.
    delay = sum(load.delay for load in loads) / len(loads) + queued * cost / running
    by_use = math.ceil(running * busy / goals.busy - 1e-9)
    if delay > goals.delay:
        by_delay = running * min(delay / goals.delay, GROWTH)
        wanted = max(by_use, math.ceil(by_delay), running + 1)
        return min(wanted, math.ceil(running * GROWTH))
    if delay > goals.delay * CALM:
        return max(running, by_use)
    return max(1, by_use, math.ceil(running * SHRINK))


class LoadWindow:
    """A replica's batches since it was last asked for its load."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._requests = 0
        self._waited = self._computed = 0.0

    def add(self, report: BatchReport) -> None:
        """Take in a finished batch."""
        self._requests += report.requests
        self._waited += report.queue
        self._computed += report.compute

    def take(self, now: float, expected_wait: float) -> Load:
        """The load until ``now``, and begin anew. ``expected_wait`` is what a newcomer would wait:
        a queue that nobody was answered from yet counts too."""
        elapsed = max(now - self._since, 1e-9)
        requests = max(self._requests, 1)
        delay = max(self._waited / requests, expected_wait)
        load = Load(delay, min(self._computed / elapsed, 1.0), self._computed / requests)
        self._since, self._requests = now, 0
        self._waited = self._computed = 0.0
        return load
