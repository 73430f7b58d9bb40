"""Every shell: crowds at half-open, room, probes, forks; the same calls, the same ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import tierline
from tierline import _exceptions as errors
from tierline._channels import Outgoing
from tierline.wire import ScoreReply

from .scripted_channel import (
    CLOUD,
    EDGE,
    SHELLS,
    AsyncScriptedChannel,
    Runner,
    Script,
    ScriptedChannel,
    follow,
    reply,
)

DOWN = errors.Unavailable("down")
UNSURE = reply(uncertainty=0.9)


@pytest.fixture(params=list(SHELLS), ids=list(SHELLS))
def run(request: pytest.FixtureRequest) -> Runner:
    return SHELLS[request.param]


# -- the same scenario, the same line for line -----------------------------------------------------

SCRIPTS: dict[str, dict[str, list[Any]]] = {
    "a certain edge": {},
    "an unsure edge": {"edge": [UNSURE]},
    "an edge that fails once": {"edge": [DOWN, reply()]},
    "an edge that answers wrongly": {"edge": [reply(n=2), reply()]},
    "edges that refuse": {"edge": [errors.ConnectFailed("refused")]},
    "an unsure edge, a failing cloud": {"edge": [UNSURE], "cloud": [DOWN]},
    "all is down": {"edge": [DOWN], "cloud": [errors.ModelFailed("NaN")]},
    "the caller is wrong": {"edge": [errors.BadRequest("no such input")]},
    "nobody has the model": {
        "edge": [errors.ModelNotFound("not here")],
        "cloud": [errors.ModelNotFound("not here")],
    },
}


def _end(run: Runner, monkeypatch: pytest.MonkeyPatch, steps: dict[str, list[Any]]) -> list[Any]:
    script = Script(**{name: list(given) for name, given in steps.items()})
    try:
        answer = run(monkeypatch, script, retry=tierline.RetryPolicy(base=0.001, cap=0.001))
    except errors.CallError as error:
        return [type(error), *((a.kind, a.tier, a.outcome) for a in error.attempts)]
    return [
        answer.tier,
        answer.quality,
        answer.reason,
        *((a.kind, a.tier, a.outcome) for a in answer.attempts),
    ]


@pytest.mark.parametrize("scenario", list(SCRIPTS))
def test_all_shells_agree_line_for_line(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {name: _end(run, monkeypatch, SCRIPTS[scenario]) for name, run in SHELLS.items()}
    first = ends["inline"]
    assert all(end == first for end in ends.values()), ends


# -- a process that stands still -------------------------------------------------------------------


class StallingClock:
    """Time, until the process stands still for an hour once the call has begun (two looks)."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return time.monotonic() + (3600.0 if self.looks > 2 else 0.0)


def test_a_process_that_stood_still_does_not_blame_the_endpoint(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    monkeypatch.setattr("tierline._base_client.BaseClient._clock", StallingClock())
    with pytest.raises(errors.DeadlineExceeded) as caught:
        run(monkeypatch, script)
    assert caught.value.attempts[0].outcome == "lapsed"
    assert {attempt.outcome for attempt in caught.value.attempts} <= {"lapsed", "abandoned"}
    assert script.asked == []


class StoppedClock:
    """Time, until the process stands still as the first attempt is made."""

    def __init__(self) -> None:
        self.stood = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.stood

    def stand_still(self) -> None:
        self.stood = 3.3  # of the four that the call has; two are for the first attempt


@pytest.mark.parametrize(
    ("came", "outcome"),
    [
        (errors.AttemptTimedOut("in time, by nobody's watch"), "lapsed"),
        (errors.RemoteProtocolError("hung up on us"), "lapsed"),
        (reply(), "ok"),
    ],
    ids=["timed out", "hung up", "answered"],
)
def test_what_comes_of_an_attempt_during_which_the_process_stood_still_is_held_against_nobody(
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
    came: Any,
    outcome: str,
) -> None:
    script, clock = Script(edge=[came, reply()]), StoppedClock()
    script.heard = clock.stand_still
    monkeypatch.setattr("tierline._base_client.BaseClient._clock", clock)
    kept: list[Any] = []
    fleet = tierline._base_client.Fleet
    monkeypatch.setattr("tierline._base_client.Fleet", lambda c: kept.append(fleet(c)) or kept[-1])
    answer = run(
        monkeypatch,
        script,
        breaker=tierline.BreakerPolicy(consecutive=1, minimum_calls=1, slow_rate=0.01),
        ejection=tierline.EjectionPolicy(consecutive=1),
        deadline=4.0,
    )
    assert answer.attempts[0].outcome == outcome
    for endpoint in kept[0].endpoints():
        assert endpoint.breaker("ranker").generation == 0
        assert endpoint.standing.is_plain
        assert endpoint.inflight == 0


# -- half-open under a crowd -----------------------------------------------------------------------


class Crowded:
    """A channel that is slow enough for a crowd to gather, and counts who is in it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = self.asked = 0

    def enter(self) -> None:
        with self.lock:
            self.asked += 1
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1


class CrowdedChannel(ScriptedChannel):
    def __init__(self, crowd: Crowded) -> None:
        self.crowd = crowd

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        self.crowd.enter()
        time.sleep(0.001)
        self.crowd.leave()
        return reply()


class AsyncCrowdedChannel(AsyncScriptedChannel):
    def __init__(self, crowd: Crowded) -> None:
        self.crowd = crowd

    async def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:  # type: ignore[override]
        self.crowd.enter()
        try:
            await asyncio.sleep(0.001)
        finally:
            self.crowd.leave()
        return reply()


def _follow_crowd(monkeypatch: pytest.MonkeyPatch) -> Crowded:
    crowd = Crowded()
    monkeypatch.setattr("tierline._client.open_channel", lambda u, c: CrowdedChannel(crowd))
    monkeypatch.setattr(
        "tierline._async_client.open_async_channel", lambda u, c: AsyncCrowdedChannel(crowd)
    )
    return crowd


def _open_and_due(client: tierline.Client | tierline.AsyncClient) -> None:
    """The lone endpoint's breaker has opened, and its wait is over."""
    breaker, now = client._fleet.endpoints()[0].breaker("ranker"), client._clock()
    for _ in range(5):
        permit = breaker.acquire(now - 2.0, 1.0)
        assert permit is not None
        breaker.failed(permit, now - 2.0, 0.0)


CALL: dict[str, Any] = {"query": {"history": [1]}, "candidates": [4, 5, 6], "deadline": 5.0}


def test_a_thousand_tasks_at_half_open_are_one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = _follow_crowd(monkeypatch)

    async def rush() -> list[Any]:
        async with tierline.AsyncClient(edge=EDGE[:1]) as client:
            _open_and_due(client)
            tasks = [client.score("ranker", **CALL) for _ in range(1000)]
            return await asyncio.gather(*tasks, return_exceptions=True)

    ends = asyncio.run(rush())
    assert (crowd.asked, crowd.most) == (1, 1)
    assert sum(isinstance(end, tierline.Answer) for end in ends) == 1
    assert sum(isinstance(end, errors.Unavailable) for end in ends) == 999


def test_threads_at_half_open_never_exceed_its_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = _follow_crowd(monkeypatch)
    with tierline.Client(edge=EDGE[:1]) as client, ThreadPoolExecutor(100) as pool:
        _open_and_due(client)
        breaker = client._fleet.endpoints()[0].breaker("ranker")
        seen = set()

        def one(_: int) -> bool:
            try:
                answer = client.score("ranker", **CALL)
            except errors.CallError:
                return False
            finally:
                if breaker.state.value == "half_open":
                    seen.add(crowd.most)
            return answer.tier == "edge"  # else the last good one, when refused

        answered = sum(pool.map(one, range(1000)))
    assert crowd.asked == answered
    assert max(seen, default=0) <= 4


def test_a_hung_probe_of_a_breaker_is_settled_in_time_by_every_shell(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierline._base_client.Fleet", _fleet_with_open_breakers)
    script = Script(edge=[5.0], cloud=[reply("cloud@1", None)])
    answer = run(monkeypatch, script)
    assert answer.tier == "cloud"
    assert answer.attempts[0].outcome in ("timed_out", "abandoned")


def _fleet_with_open_breakers(config: tierline.ClientConfig) -> Any:
    from tierline._core.fleet import Fleet

    fleet = Fleet(config)
    for endpoint in fleet.tiers[0].endpoints:
        breaker, before = endpoint.breaker("ranker"), time.monotonic() - 5.0
        for _ in range(5):
            permit = breaker.acquire(before, 1.0)
            assert permit is not None
            breaker.failed(permit, before, 0.0)
    return fleet


# -- room ------------------------------------------------------------------------------------------


def test_sixteen_callers_of_one_endpoint_are_never_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = _follow_crowd(monkeypatch)
    with tierline.Client(edge=EDGE[:1]) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.score("ranker", **CALL), range(320)))
    assert len(answers) == crowd.asked == 320


def test_beyond_its_limit_calls_are_refused_at_once_the_lesser_ones_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _follow_crowd(monkeypatch)

    async def rush() -> dict[str, int]:
        limiter = tierline.LimiterPolicy(initial=20, maximum=20)
        async with tierline.AsyncClient(edge=EDGE[:1], limiter=limiter) as client:
            kinds = [kind.value for kind in tierline.Criticality]
            tasks = [
                client.score("ranker", **CALL, criticality=kind)
                for kind in sorted(kinds, key=["sheddable", "default", "critical"].index)
                for _ in range(50)
            ]
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, tierline.Answer | errors.Overloaded) for end in ends)
        good = [isinstance(end, tierline.Answer) for end in ends]
        return dict(
            zip(
                ("low", "mid", "high"), map(sum, (good[:50], good[50:100], good[100:])), strict=True
            )
        )

    assert asyncio.run(rush()) == {"low": 10, "mid": 8, "high": 2}


def test_a_client_tells_its_amplification(monkeypatch: pytest.MonkeyPatch) -> None:
    follow(Script(edge=[DOWN, reply()]), monkeypatch)
    with tierline.Client(edge=EDGE) as client:
        assert client.amplification() == 1.0
        client.score("ranker", **CALL)
        assert client.amplification() == 2.0


# -- probes of health ------------------------------------------------------------------------------

PROBING = tierline.HealthPolicy(interval=0.02, timeout=0.02)


def _probed(script: Script, url: str) -> int:
    return script.asked.count(url)


async def _until_asked(script: Script, url: str, more: int) -> None:
    """Wait until this endpoint was asked so many times more."""
    enough, wanted = asyncio.Event(), _probed(script, url) + more
    script.heard = lambda: enough.set() if _probed(script, url) >= wanted else None
    await enough.wait()


def test_an_idle_endpoint_is_probed_by_threads_that_end_with_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script()
    follow(script, monkeypatch)
    with tierline.Client(edge=EDGE, health=PROBING) as client:
        enough = threading.Event()
        script.heard = lambda: enough.set() if min(map(script.asked.count, EDGE)) >= 3 else None
        client.score("ranker", **CALL)
        assert enough.wait(10.0)
    asked = len(script.asked)
    assert not [t for t in threading.enumerate() if t.name == "tierline-probe"]
    assert len(script.asked) == asked


def test_tasks_probe_on_the_loop_of_the_client_and_end_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(**{"edge-b": [errors.ConnectFailed("refused")]})
    follow(script, monkeypatch)

    async def calls(client: tierline.AsyncClient) -> None:
        before = len(asyncio.all_tasks())
        await client.score("ranker", **CALL)
        dead = client._fleet.endpoints()[1]
        await _until_asked(script, EDGE[1], 3)  # the second one's report is in by the third
        assert dead.standing.is_out("ranker", client._clock())
        asked = _probed(script, EDGE[0])
        for _ in range(20):  # nobody but the probes asks who is out
            await client.score("ranker", **CALL)
        assert _probed(script, EDGE[0]) >= asked + 20
        await client.aclose()
        assert len(asyncio.all_tasks()) == before

    client = tierline.AsyncClient(edge=EDGE, health=PROBING)
    asyncio.run(asyncio.wait_for(calls(client), 10.0))


def test_a_client_is_probed_on_each_loop_it_is_used_on(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    follow(script, monkeypatch)
    client = tierline.AsyncClient(edge=EDGE, health=PROBING)

    async def use() -> None:
        await client.score("ranker", **CALL)
        await _until_asked(script, EDGE[0], 3)
        await _until_asked(script, EDGE[1], 3)

    for _ in range(2):
        asyncio.run(asyncio.wait_for(use(), 5.0))


def test_a_probe_that_meets_a_bug_counts_as_failed_and_the_probes_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(**{"edge-b": [ZeroDivisionError("a bug")]})
    follow(script, monkeypatch)

    async def use() -> None:
        async with tierline.AsyncClient(edge=EDGE, health=PROBING) as client:
            client._fleet.endpoints()[1].inflight = 128  # keeps calls away, not probes
            await client.score("ranker", **CALL)
            await _until_asked(script, EDGE[1], 3)
            assert client._fleet.endpoints()[1].standing.is_out("ranker", client._clock())

    asyncio.run(asyncio.wait_for(use(), 5.0))


def test_without_a_policy_nothing_is_probed(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    run(monkeypatch, script)
    assert len(script.asked) == 1
    assert not [t for t in threading.enumerate() if t.name == "tierline-probe"]


# -- forks -----------------------------------------------------------------------------------------


def _child(client: tierline.Client, pipe: Connection) -> None:
    answer = client.score("ranker", **CALL)
    out = [endpoint.inflight for endpoint in client._fleet.endpoints()]
    probes = [t.name for t in threading.enumerate() if t.name == "tierline-probe"]
    pipe.send((answer.tier, out, len(probes)))
    pipe.close()
    os._exit(0)


@pytest.mark.parametrize("hedge", [None, tierline.HedgePolicy(after=0.1, budget=1.0)])
def test_a_client_made_before_a_fork_works_in_the_child(
    hedge: tierline.HedgePolicy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(Script(), monkeypatch)
    health = tierline.HealthPolicy()
    with tierline.Client(edge=EDGE, cloud=CLOUD, hedge=hedge, health=health) as client:
        client.score("ranker", **CALL)
        client._fleet.endpoints()[0].inflight = 40  # the parent's, out at the time of the fork
        mine, theirs = multiprocessing.get_context("fork").Pipe()
        with client._lock:  # and a thread of the parent holds the lock
            child = os.fork()
            if child == 0:
                _child(client, theirs)
        assert mine.poll(10.0)
        assert mine.recv() == ("edge", [0, 0, 0], 3)
        os.waitpid(child, 0)
        client._fleet.endpoints()[0].inflight = 0
        np.testing.assert_array_equal(client.score("ranker", **CALL).scores, reply().scores)
