"""A channel that answers from a script, and a runner for each shell: one scenario, three shells."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tierline
from tierline import Answer
from tierline._channels import Outgoing
from tierline._exceptions import AttemptTimedOut
from tierline.wire import ScoreReply

Step = ScoreReply | Exception | float  # an answer, a failure, or a hang of so many seconds

EDGE = ["http://edge-a:1", "http://edge-b:1"]
CLOUD = ["http://cloud:1"]


def reply(bundle: str = "edge@1", uncertainty: float | None = 0.1, n: int = 3) -> ScoreReply:
    scores = np.linspace(1, 0, n, dtype=np.float32)
    return ScoreReply(
        model="ranker", bundle=bundle, scores=scores, uncertainty=uncertainty, threshold=0.5
    )


class Script:
    """What every endpoint answers, in order; the last step is repeated. Counts what was asked."""

    def __init__(self, **steps: list[Step]) -> None:
        self._steps = {"edge": [reply()], "cloud": [reply("cloud@1", None)], **steps}
        self._lock = threading.Lock()
        self.asked: list[str] = []
        self.heard: Callable[[], None] = lambda: None  # called with every attempt
        self.hanging = threading.Event()  # set: hung attempts come back

    def next(self, url: str) -> Step:
        name = "cloud" if "cloud" in url else url.split("//")[1].split(":")[0]
        steps = self._steps.get(name, self._steps["edge"])
        with self._lock:
            self.asked.append(url)
            step = steps.pop(0) if len(steps) > 1 else steps[0]
        self.heard()
        return step


class ScriptedChannel:
    def __init__(self, url: str, script: Script) -> None:
        self.url, self.script = url, script

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        step = self.script.next(self.url)
        if isinstance(step, float):
            self.script.hanging.wait(min(step, timeout))
            raise AttemptTimedOut("hung")
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        pass


class AsyncScriptedChannel(ScriptedChannel):
    running = 0

    async def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:  # type: ignore[override]
        step = self.script.next(self.url)
        if isinstance(step, float):
            type(self).running += 1
            try:
                await asyncio.sleep(min(step, timeout))
            finally:
                type(self).running -= 1
            raise AttemptTimedOut("hung")
        if isinstance(step, Exception):
            raise step
        return step

    async def aclose(self) -> None:
        pass


def follow(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, every client made by this test talks to the script."""
    monkeypatch.setattr(
        "tierline._client.open_channel", lambda url, config: ScriptedChannel(url, script)
    )
    monkeypatch.setattr(
        "tierline._async_client.open_async_channel",
        lambda url, config: AsyncScriptedChannel(url, script),
    )


def run_sync(monkeypatch: pytest.MonkeyPatch, script: Script, **options: Any) -> Answer:
    follow(script, monkeypatch)
    with tierline.Client(edge=EDGE, cloud=CLOUD, **{"deadline": 0.2, **options}) as client:
        try:
            return client.score("ranker", query={"history": [1]}, candidates=[4, 5, 6])
        finally:
            script.hanging.set()


def run_threaded(monkeypatch: pytest.MonkeyPatch, script: Script, **options: Any) -> Answer:
    options.setdefault("hedge", tierline.HedgePolicy(after=0.19, budget=1.0))
    return run_sync(monkeypatch, script, **options)


def run_async(monkeypatch: pytest.MonkeyPatch, script: Script, **options: Any) -> Answer:
    follow(script, monkeypatch)

    async def call() -> Answer:
        async with tierline.AsyncClient(
            edge=EDGE, cloud=CLOUD, **{"deadline": 0.2, **options}
        ) as client:
            return await client.score("ranker", query={"history": [1]}, candidates=[4, 5, 6])

    return asyncio.run(call())


def run_async_hedging(monkeypatch: pytest.MonkeyPatch, script: Script, **options: Any) -> Answer:
    options.setdefault("hedge", tierline.HedgePolicy(after=0.19, budget=1.0))
    return run_async(monkeypatch, script, **options)


Runner = Callable[..., Answer]
SHELLS: dict[str, Runner] = {
    "inline": run_sync,
    "threaded": run_threaded,
    "asyncio": run_async,
    "asyncio in tasks": run_async_hedging,
}
