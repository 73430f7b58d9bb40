"""A small fleet and a call driven by hand: what the core's tests share."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tierline import _exceptions as errors
from tierline._config import ClientConfig, Endpoint, Mode, Tier
from tierline._core.call import ScoreCall
from tierline._core.commands import Finish, StartAttempt
from tierline._core.fleet import Fleet
from tierline._types import Answer
from tierline.wire import ScoreReply, ScoreRequest

EDGE_A, EDGE_B = "http://edge-a:1", "http://edge-b:1"
PRIVATE, PUBLIC = "http://private:1", "http://public:1"
REQUEST = ScoreRequest(
    model="ranker",
    query={"history": np.arange(1, 4)},
    candidates={"id": np.array([7, 8, 9])},
)


def config(**changes: Any) -> ClientConfig:
    """Two edge endpoints, one private and one public cloud endpoint."""
    tiers = (
        Tier(name="edge", kind="edge", endpoints=(Endpoint(url=EDGE_A), Endpoint(url=EDGE_B))),
        Tier(name="private", kind="cloud", endpoints=(Endpoint(url=PRIVATE),)),
        Tier(name="public", kind="cloud", endpoints=(Endpoint(url=PUBLIC),), trust="public"),
    )
    return ClientConfig(**{"tiers": tiers, **changes})


def reply(
    uncertainty: float | None = 0.1, threshold: float | None = 0.5, **changes: Any
) -> ScoreReply:
    fields: dict[str, Any] = {
        "model": "ranker",
        "bundle": "v1@000000000000",
        "scores": np.array([0.3, 0.1, 0.2], np.float32),
        "uncertainty": uncertainty,
        "threshold": threshold,
    }
    return ScoreReply(**{**fields, **changes})


SURE = reply(uncertainty=0.1)
UNSURE = reply(uncertainty=0.9)
CLOUD = reply(uncertainty=None, threshold=None, bundle="v2@111111111111")


class Driver:
    """One call, stepped by hand at instants the test chooses."""

    def __init__(self, fleet: Fleet, *, seed: int = 1, **options: Any) -> None:
        settings: dict[str, Any] = {"mode": Mode.SEQUENTIAL, "key": "user"}
        settings.update(options)
        begin = settings.pop("begin", 0.0)
        settings.setdefault("deadline", begin + 0.25)
        self.call = ScoreCall(
            settings.pop("request", REQUEST),
            fleet,
            call_id="c",
            dice=random.Random(seed),
            **settings,
        )
        self.commands: list[Any] = self.call.begin(begin)

    @property
    def started(self) -> StartAttempt:
        [start] = [c for c in self.commands if isinstance(c, StartAttempt)]
        return start

    @property
    def answer(self) -> Answer:
        [finish] = [c for c in self.commands if isinstance(c, Finish)]
        if finish.error is not None:
            raise finish.error
        assert finish.answer is not None
        return finish.answer

    def succeed(self, given: ScoreReply, at: float = 0.01) -> Driver:
        self.commands = self.call.attempt_succeeded(self.started.number, given, at)
        return self

    def fail(self, error: errors.TierlineError, at: float = 0.01) -> Driver:
        self.commands = self.call.attempt_failed(self.started.number, error, at)
        return self
