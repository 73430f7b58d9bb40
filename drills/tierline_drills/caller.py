"""A client process: the shipped AsyncClient under an open-loop load, every attempt written down.

Calls are due at instants of a schedule and are sent then, whatever became of the calls before; a
latency counts from the instant a call was due. The rate may be changed while it runs (``tempo``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import tierline
from tierline_drills.records import Belief, Call, Tried, write_line
from tierline_drills.tempo import Tempo, class_of
from tierline_drills.truth import K, Truth

LOOK_EVERY = 0.02  # seconds between two looks at what the client believes
FLUSH_EVERY = 0.05  # seconds until a watcher may read what happened
POLICIES: Mapping[str, Any] = {
    "retry": tierline.RetryPolicy,
    "hedge": tierline.HedgePolicy,
    "timeout": tierline.TimeoutPolicy,
    "breaker": tierline.BreakerPolicy,
    "ejection": tierline.EjectionPolicy,
    "limiter": tierline.LimiterPolicy,
    "health": tierline.HealthPolicy,
    "escalation": tierline.EscalationPolicy,
}


def client_config(plan: Mapping[str, Any]) -> tierline.ClientConfig:
    """The configuration a plan describes: ``tiers`` (name, kind, trust, urls) and policies."""
    tiers = tuple(
        tierline.Tier(
            name=tier["name"],
            kind=tier["kind"],
            trust=tier.get("trust", "private"),
            region=tier.get("region", "local"),
            endpoints=tuple(tierline.Endpoint(url=url) for url in tier["urls"]),
        )
        for tier in plan["tiers"]
        if tier["urls"]
    )
    given = {name: one for name, one in plan.get("client", {}).items() if one is not None}
    health = given.get("health") or {}
    if health.get("golden"):
        given["health"] = {**health, "golden": Path(health["golden"])}
    policies = {name: POLICIES[name](**given.pop(name)) for name in list(given) if name in POLICIES}
    return tierline.ClientConfig(tiers=tiers, deadline=plan["deadline"], **policies, **given)


class Caller:
    """One client process at work. ``plan`` is what the session wrote for it."""

    def __init__(self, plan: Mapping[str, Any], log: TextIO) -> None:
        self._plan = plan
        self._log = log
        self._origin = float(plan["origin"])
        self._group, self._number = str(plan["group"]), int(plan["client_number"])
        self._truth = Truth.load(Path(plan["truth"]))
        self._histories = [np.array(history, np.int64) for history in plan["histories"]]
        self._names: dict[str, str] = plan["names"]  # URL → node
        # A negative control's calls have neither a last good answer nor a prior to fall back on.
        self._keyed = bool(plan.get("keyed", True))
        # After a restart nothing is believed any more, and the log must say so.
        self._beliefs: dict[str, tuple[str, bool] | None] = {}
        self._unsaid = None if plan.get("restarted") else ("closed", False)
        self._classes: dict[str, float] = dict(plan.get("classes", {}))
        self._stopped = asyncio.Event()
        self._out: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Call until told to stop, then wait for what is still out."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        async with tierline.AsyncClient(config=client_config(self._plan)) as client:
            if self._keyed:
                await client.prepare(self._plan["model"])
            watching = asyncio.create_task(self._watch(client))
            await self._schedule(client)
            await asyncio.gather(*self._out)
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        self._log.flush()

    async def _schedule(self, client: tierline.AsyncClient) -> None:
        """Each client takes every n-th instant of the group's schedule."""
        tempo, clients = Tempo(self._plan), int(self._plan["clients"])
        number = self._number + int(self._plan.get("first", 0))
        due = float(self._plan["start"]) + self._number / tempo.rate()
        while not self._stopped.is_set():
            early = due - self._now()
            if early > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(early):
                        await self._stopped.wait()
                if self._stopped.is_set():
                    return
            task = asyncio.create_task(self._call(client, number, due))
            self._out.add(task)
            task.add_done_callback(self._out.discard)
            number += clients
            due += clients / tempo.rate()

    async def _call(self, client: tierline.AsyncClient, number: int, due: float) -> None:
        visit = number % len(self._histories)
        sent = self._now()
        worth = class_of(number, self._classes)
        try:
            answer = await client.recommend(
                self._plan["model"],
                query={"history": self._histories[visit]},
                k=K,
                key=f"visit-{visit}" if self._keyed else f"call-{number}",
                deadline=max(0.001, self._plan["deadline"] - self._elapsed(due, sent)),
                criticality=worth if self._plan.get("tells_class", True) else "default",
                mode=self._plan.get("mode", "sequential"),
                version=self._plan.get("version"),
            )
        except tierline.CallError as error:
            self._write(self._failed(number, due, sent, error)._replace(criticality=worth))
            return
        found = self._answered(number, due, sent, visit, answer)
        self._write(found._replace(criticality=worth))

    def _elapsed(self, due: float, sent: float) -> float:
        """Seconds since the call was due. A negative control asks the wall clock, which steps."""
        if self._plan.get("clock") == "wall":
            return time.time() - float(self._plan["wall_origin"]) - due
        return sent - due

    def _answered(
        self, number: int, due: float, sent: float, visit: int, answer: tierline.Answer
    ) -> Call:
        return Call(
            self._group,
            self._number,
            number,
            due,
            self._now(),
            tier=answer.tier,
            quality=answer.quality,
            reason=answer.reason,
            bundle=answer.bundle,
            wrong=self._truth.complaint(visit, answer),
            gain=self._truth.gain(visit, [] if answer.items is None else list(answer.items)),
            full_gain=self._truth.full_gain(visit),
            attempts=self._tried(sent, answer.attempts),
        )

    def _failed(self, number: int, due: float, sent: float, error: tierline.CallError) -> Call:
        return Call(
            self._group,
            self._number,
            number,
            due,
            self._now(),
            error=f"{type(error).__name__}: {error}",
            full_gain=self._truth.full_gain(number % len(self._histories)),
            attempts=self._tried(sent, error.attempts),
        )

    def _tried(self, sent: float, attempts: tuple[tierline.Attempt, ...]) -> tuple[Tried, ...]:
        return tuple(
            Tried(
                one.number,
                one.kind,
                one.tier,
                self._names.get(one.endpoint, one.endpoint),
                sent + one.started,
                sent + one.ended,
                one.outcome,
            )
            for one in attempts
        )

    async def _watch(self, client: tierline.AsyncClient) -> None:
        """Write down every change of what the client believes of an endpoint."""
        flushed = self._now()
        while True:
            self._look(client)
            if self._now() - flushed > FLUSH_EVERY:
                self._log.flush()
                flushed = self._now()
            await asyncio.sleep(LOOK_EVERY)

    def _look(self, client: tierline.AsyncClient) -> None:
        model, now = self._plan["model"], time.monotonic()
        # The client tells nobody yet what it believes (its events are a later issue): the drill,
        # which is the top layer, looks inside.
        for state in client._fleet.endpoints():
            served = state.models.get(model)
            breaker = "closed" if served is None else served.breaker.state.value
            is_out = state.standing.is_out(model, now)
            if served is not None and not is_out:  # or all who serve its bundle are left out
                is_out = client._fleet.semantic.shuns(model, served.bundle, now)
            believed = (breaker, is_out)
            if self._beliefs.get(state.url, self._unsaid) != believed:
                self._beliefs[state.url] = believed
                name = self._names.get(state.url, state.url)
                self._write(Belief(self._group, self._number, self._now(), name, *believed))

    def _write(self, entry: Call | Belief) -> None:
        self._log.write(write_line(entry) + "\n")

    def _now(self) -> float:
        return time.monotonic() - self._origin


def main(place: str) -> None:
    """The process: ``python -m tierline_drills.caller PLAN.json``."""
    plan = json.loads(Path(place).read_text(encoding="utf-8"))
    with open(plan["log"], "a", encoding="utf-8", buffering=1 << 16) as log:
        asyncio.run(Caller(plan, log).run())


if __name__ == "__main__":
    main(sys.argv[1])
