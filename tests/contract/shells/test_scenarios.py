"""Every shell carries the same scenarios to the same ends."""

from __future__ import annotations

import asyncio
import inspect
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tierline
from tierline import _exceptions as errors

from .scripted_channel import (
    CLOUD,
    EDGE,
    SHELLS,
    AsyncScriptedChannel,
    Runner,
    Script,
    follow,
    reply,
)

UNSURE = reply(uncertainty=0.9)


@pytest.fixture(params=list(SHELLS), ids=list(SHELLS))
def run(request: pytest.FixtureRequest) -> Runner:
    return SHELLS[request.param]


def test_a_certain_edge_answer_is_the_answer(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run(monkeypatch, Script())
    assert (answer.tier, answer.reason, answer.bundle) == ("edge", "certain", "edge@1")
    assert answer.items is not None
    np.testing.assert_array_equal(answer.items, [4, 5, 6])
    np.testing.assert_array_equal(answer.order, [0, 1, 2])
    assert 0 <= answer.elapsed < 0.2


def test_an_unsure_edge_answer_is_escalated(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run(monkeypatch, Script(edge=[UNSURE]))
    assert (answer.tier, answer.quality, answer.bundle) == ("cloud", "full", "cloud@1")


def test_a_failing_cloud_leaves_the_edge_answer(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(edge=[UNSURE], cloud=[errors.ModelFailed("NaN")])
    answer = run(monkeypatch, script)
    assert (answer.tier, answer.quality) == ("edge", "degraded")
    assert answer.reason == "escalation_failed: model_failed"


def test_a_hung_cloud_leaves_the_edge_answer_in_time(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = run(monkeypatch, Script(edge=[UNSURE], cloud=[5.0]))
    assert answer.reason == "escalation_failed: timed_out"
    assert answer.elapsed < 0.25


def test_a_dead_edge_endpoint_is_followed_by_the_other(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = run(monkeypatch, Script(edge=[errors.ConnectFailed("refused"), reply()]))
    assert (answer.tier, answer.reason) == ("edge", "certain")
    assert [a.outcome for a in answer.attempts] == ["connect_failed", "ok"]


def test_with_a_slow_clock_no_attempt_ends_before_it_began(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    slow = staticmethod(lambda: begun + (time.monotonic() - begun) * 0.5)
    monkeypatch.setattr("tierline._base_client.BaseClient._clock", slow)
    busy = errors.Overloaded("busy")
    busy.retry_after = 0.02
    gone = errors.ConnectFailed("refused")
    answer = run(monkeypatch, Script(edge=[gone], cloud=[busy, reply("cloud@1", None)]))
    assert [a.outcome for a in answer.attempts if a.tier == "cloud"] == ["overloaded", "ok"]
    first, second = (a for a in answer.attempts if a.tier == "cloud")
    assert 0.02 - 1e-5 <= second.started - first.ended < 0.15
    assert all(attempt.started <= attempt.ended for attempt in answer.attempts)


def test_with_everything_down_one_typed_error_carries_the_attempts(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = errors.ConnectFailed("refused")
    with pytest.raises(errors.Unavailable) as caught:
        run(monkeypatch, Script(edge=[down], cloud=[down]))
    assert [a.tier for a in caught.value.attempts[:3]] == ["edge", "edge", "cloud"]
    assert caught.value.call_id


def test_with_everything_hung_the_call_ends_by_its_deadline(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        run(monkeypatch, Script(edge=[5.0], cloud=[5.0]))
    assert time.monotonic() - begun < 0.5  # 0.2 s and what closing takes on a busy machine


def test_a_bad_request_is_raised_as_it_is(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.BadRequest, match="no such input"):
        run(monkeypatch, Script(edge=[errors.BadRequest("no such input")]))


@pytest.mark.parametrize("shell", ["threaded", "asyncio in tasks"])
def test_a_hedge_answers_for_a_hung_endpoint(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hedge = tierline.HedgePolicy(after=0.02, budget=1.0)
    answer = SHELLS[shell](monkeypatch, Script(edge=[5.0, reply()]), hedge=hedge)
    assert {a.kind for a in answer.attempts} == {"first", "hedge"}
    assert {a.outcome for a in answer.attempts} == {"ok", "abandoned"}
    assert answer.elapsed < 0.15


def test_a_lone_endpoint_is_retried_after_a_wait(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"retry": tierline.RetryPolicy(per_tier=3)}
    down = errors.Unavailable("starting")
    script = Script(edge=[errors.ConnectFailed("x")], cloud=[down, reply("cloud@1", None)])
    answer = run(monkeypatch, script, **options)
    assert answer.tier == "cloud"
    assert [a.kind for a in answer.attempts][-1] in ("retry", "escalation")


def test_a_foreign_exception_passes_through_and_gives_every_place_back(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, Script(edge=[ZeroDivisionError("a bug, not a failure")]))


async def _cancelled_client(script: Script) -> tierline.AsyncClient:
    client = tierline.AsyncClient(edge=EDGE, cloud=CLOUD, deadline=10.0)
    tasks = [
        asyncio.create_task(client.score("ranker", query={"history": [i]}, candidates=[4, 5, 6]))
        for i in range(50)
    ]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return client


def test_cancelled_calls_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(edge=[30.0])
    follow(script, monkeypatch)
    client = asyncio.run(_cancelled_client(script))
    assert AsyncScriptedChannel.running == 0
    endpoints = client._fleet.endpoints()
    assert [e.inflight for e in endpoints] == [0, 0, 0]
    assert all(e.breaker("ranker").state.value == "closed" for e in endpoints)


def test_the_clients_are_twins() -> None:
    for name in ("score", "recommend", "prepare"):
        sync, aio = getattr(tierline.Client, name), getattr(tierline.AsyncClient, name)
        assert inspect.signature(sync) == inspect.signature(aio)
        assert sync.__doc__ == aio.__doc__


def test_sixteen_threads_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    follow(script, monkeypatch)
    with (
        tierline.Client(edge=EDGE, cloud=CLOUD, deadline=30.0) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(
            pool.map(
                lambda i: client.score("ranker", query={"history": [i]}, candidates=[1, 2, 3]),
                range(400),
            )
        )
    assert len(answers) == 400
    assert [e.inflight for e in client._fleet.endpoints()] == [0, 0, 0]
