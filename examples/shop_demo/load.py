"""The demo's callers: half use Client from threads, half AsyncClient from one event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import tierline

CALLERS = 10  # half threads, half asyncio tasks
K = 10  # NDCG@10
PATIENCE = 60.0  # seconds the callers may take to stop once they were told to


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One test user: what they took before, and the one thing they took next."""

    user: int
    history: tuple[int, ...]
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one call ended. ``at`` is seconds since the load began, ``gain`` the call's NDCG@10."""

    at: float
    elapsed: float
    caller: str  # "threads" | "asyncio"
    tier: str = ""
    quality: str = ""
    reason: str = ""
    attempts: tuple[tierline.Attempt, ...] = ()  # oldest first
    gain: float = 0.0
    failure: str = ""  # empty: answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Whom to call, for whom, how often. ``rate`` in calls a second; None: as fast as answered."""

    edge: Sequence[str]
    cloud: Sequence[str]
    model: str
    visits: Sequence[Visit]
    mode: str = "sequential"
    rate: float | None = None
    deadline: float = 0.25


class Load:
    """A load that runs in its own threads from ``start`` on, until its visits are used up."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcomes: list[Outcome] = []  # list.append is atomic: no lock
        self._began = 0.0
        self._client = tierline.Client(edge=plan.edge, cloud=plan.cloud, deadline=plan.deadline)
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(CALLERS, thread_name_prefix="caller")
        self._callers: list[concurrent.futures.Future[None]] = []

    def start(self) -> None:
        """Learn the popularity prior, then begin to call."""
        plan, half = self.plan, CALLERS // 2
        self._client.prepare(plan.model)
        self._began = time.monotonic()
        even = iter(range(0, len(plan.visits), 2))  # next() on it is atomic: the threads share it
        self._callers = [self._pool.submit(self._call_from_thread, even) for _ in range(half)]
        self._callers.append(self._pool.submit(asyncio.run, self._call_from_loop(CALLERS - half)))

    def elapsed(self) -> float:
        """Seconds since the first call was due."""
        return time.monotonic() - self._began

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; True once all ended. Raises what a caller raised."""
        ended, going = concurrent.futures.wait(
            self._callers, timeout, concurrent.futures.FIRST_EXCEPTION
        )
        for caller in ended:
            caller.result()
        return not going

    def stop(self) -> None:
        """End the callers, each after the call it is in. Stopping twice is fine."""
        self._stop.set()
        concurrent.futures.wait(self._callers, PATIENCE)
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _call_from_thread(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            if self._stop.wait(self._early(number)):
                return
            visit, at = self.plan.visits[number], self.elapsed()
            try:
                answer = self._client.recommend(
                    self.plan.model,
                    query={"history": visit.history},
                    k=K,
                    key=f"user-{visit.user}",
                    mode=self.plan.mode,
                )
                self.outcomes.append(_answered(visit, answer, at, "threads"))
            except tierline.CallError as error:
                self.outcomes.append(_failed(error, at, "threads"))

    async def _call_from_loop(self, callers: int) -> None:
        plan = self.plan
        odd = iter(range(1, len(plan.visits), 2))
        async with tierline.AsyncClient(
            edge=plan.edge, cloud=plan.cloud, deadline=plan.deadline
        ) as client:
            await client.prepare(plan.model)
            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(self._call_from_task(client, odd))

    async def _call_from_task(self, client: tierline.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            await asyncio.sleep(self._early(number))
            if self._stop.is_set():
                return
            visit, at = self.plan.visits[number], self.elapsed()
            try:
                answer = await client.recommend(
                    self.plan.model,
                    query={"history": visit.history},
                    k=K,
                    key=f"user-{visit.user}",
                    mode=self.plan.mode,
                )
                self.outcomes.append(_answered(visit, answer, at, "asyncio"))
            except tierline.CallError as error:
                self.outcomes.append(_failed(error, at, "asyncio"))

    def _early(self, number: int) -> float:
        """Seconds until call ``number`` is due: an open loop, so a slow answer delays no other."""
        if self.plan.rate is None:
            return 0.0
        return max(0.0, number / self.plan.rate - self.elapsed())


def ndcg(items: Sequence[int], target: int) -> float:
    """NDCG of one ranked list with one relevant item: 1 / log2(rank + 1), 0 when it is absent."""
    return 1.0 / math.log2(items.index(target) + 2) if target in items else 0.0


def _answered(visit: Visit, answer: tierline.Answer, at: float, caller: str) -> Outcome:
    items = [int(item) for item in np.asarray(answer.items)[:K]]
    return Outcome(
        at=at,
        elapsed=answer.elapsed,
        caller=caller,
        tier=answer.tier,
        quality=answer.quality,
        reason=answer.reason,
        attempts=answer.attempts,
        gain=ndcg(items, visit.target),
    )


def _failed(error: tierline.CallError, at: float, caller: str) -> Outcome:
    return Outcome(
        at=at,
        elapsed=error.elapsed,
        caller=caller,
        attempts=error.attempts,
        failure=f"{type(error).__name__}: {error}",
    )
