"""Every shell learns the bundle's certificate behind its callers' backs, and shadows there too."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from certificates import (
    CERTIFICATE,
    CLOUD_BUNDLE,
    CLOUD_LIST,
    EDGE_BUNDLE,
    EDGE_SURE,
    edge_description,
)

import tierline
from tierline import Answer, EscalationPolicy, HedgePolicy
from tierline._channels import ModelDescription, Outgoing
from tierline._exceptions import ConnectFailed
from tierline.wire import ScoreReply

EDGE, CLOUD = "http://edge:1", "http://cloud:1"
PATIENCE = 5.0  # seconds; all of this takes milliseconds


class Node:
    """One endpoint of a certified pair. ``holding`` makes the cloud answer late."""

    def __init__(self, url: str, seen: Seen) -> None:
        self.url, self.seen = url, seen

    def describe(self, model: str, timeout: float) -> ModelDescription:
        self.seen.described.append(self.url)
        if self.seen.mute:
            raise ConnectFailed("refused")
        if self.url == EDGE:
            return edge_description()
        return {"name": model, "bundle": CLOUD_BUNDLE}

    def prior(self, model: str, timeout: float) -> None:
        return None

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        if self.url == EDGE:
            return EDGE_SURE
        self.seen.shown.append(outgoing)
        self.seen.holding.wait(timeout)
        return CLOUD_LIST

    def close(self) -> None:
        pass


class AsyncNode(Node):
    async def describe(self, model: str, timeout: float) -> ModelDescription:  # type: ignore[override]
        return super().describe(model, timeout)

    async def prior(self, model: str, timeout: float) -> None:  # type: ignore[override]
        return None

    async def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:  # type: ignore[override]
        if self.url == EDGE:
            return EDGE_SURE
        self.seen.shown.append(outgoing)
        await asyncio.to_thread(self.seen.holding.wait, timeout)
        return CLOUD_LIST

    async def aclose(self) -> None:
        pass


class Seen:
    """What the pair was asked."""

    def __init__(self) -> None:
        self.described: list[str] = []
        self.shown: list[Outgoing] = []
        self.holding = threading.Event()
        self.mute = False


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    pair = Seen()
    pair.holding.set()
    monkeypatch.setattr("tierline._client.open_channel", lambda url, config: Node(url, pair))
    monkeypatch.setattr(
        "tierline._async_client.open_async_channel", lambda url, config: AsyncNode(url, pair)
    )
    return pair


Judge = Callable[[Answer], bool]


def ask_sync(until: Judge, **options: Any) -> tuple[Answer, Answer]:
    """The first answer, and the first of which ``until`` is true."""
    with tierline.Client(edge=[EDGE], cloud=[CLOUD], **options) as client:
        first = answer = client.recommend("ranker", query={"history": [1]}, k=10)
        end = time.monotonic() + PATIENCE
        while not until(answer) and time.monotonic() < end:
            answer = client.recommend("ranker", query={"history": [1]}, k=10)
        return first, answer


def ask_threaded(until: Judge, **options: Any) -> tuple[Answer, Answer]:
    return ask_sync(until, hedge=HedgePolicy(after=0.1), **options)


def ask_async(until: Judge, **options: Any) -> tuple[Answer, Answer]:
    async def call() -> tuple[Answer, Answer]:
        async with tierline.AsyncClient(edge=[EDGE], cloud=[CLOUD], **options) as client:
            first = answer = await client.recommend("ranker", query={"history": [1]}, k=10)
            end = time.monotonic() + PATIENCE
            while not until(answer) and time.monotonic() < end:
                await asyncio.sleep(0)
                answer = await client.recommend("ranker", query={"history": [1]}, k=10)
            return first, answer

    return asyncio.run(call())


Runner = Callable[..., tuple[Answer, Answer]]
SHELLS: dict[str, Runner] = {"inline": ask_sync, "threaded": ask_threaded, "asyncio": ask_async}


@pytest.fixture(params=list(SHELLS), ids=list(SHELLS))
def ask(request: pytest.FixtureRequest) -> Runner:
    return SHELLS[request.param]


def is_valid(answer: Answer) -> bool:
    return answer.certificate is not None and answer.certificate.valid


def test_a_certificate_is_learnt_once_and_carried_from_then_on(ask: Runner, seen: Seen) -> None:
    first, answer = ask(is_valid)
    assert first.certificate is None  # nobody waited for it
    assert answer.certificate == CERTIFICATE.status(threshold=None)
    assert answer.bundle == EDGE_BUNDLE
    assert sorted(seen.described) == sorted([CLOUD, EDGE])
    assert not seen.shown


def test_endpoints_that_say_nothing_cost_nobody_an_answer(ask: Runner, seen: Seen) -> None:
    seen.mute = True
    _, answer = ask(lambda answer: len(seen.described) == 2)
    assert (answer.tier, answer.certificate) == ("edge", None)


def test_a_shadow_is_sent_after_its_caller_was_answered_and_without_its_trace(
    ask: Runner, seen: Seen
) -> None:
    seen.holding.clear()

    def shown_to_a_cloud_that_holds(answer: Answer) -> bool:
        shown = bool(seen.shown)
        if shown:
            seen.holding.set()
        return shown

    _, answer = ask(
        shown_to_a_cloud_that_holds, deadline=5.0, escalation=EscalationPolicy(shadow=1.0)
    )
    assert (answer.tier, [attempt.kind for attempt in answer.attempts]) == ("edge", ["first"])
    assert seen.shown[0].traceparent is None
    assert seen.shown[0].request.k == 10


def test_preparing_has_the_certificate_at_hand_before_the_first_call(seen: Seen) -> None:
    with tierline.Client(edge=[EDGE], cloud=[CLOUD]) as client:
        assert client.escalation("ranker") is None
        client.prepare("ranker")
        answer = client.recommend("ranker", query={"history": [1]}, k=10)
        told = client.escalation("ranker")
        end = time.monotonic() + PATIENCE
        while CLOUD not in seen.described and time.monotonic() < end:
            client.recommend("ranker", query={"history": [1]}, k=10)
    assert answer.certificate is not None
    assert answer.certificate.id == CERTIFICATE.id
    assert sorted(seen.described) == sorted([CLOUD, EDGE])  # each once
    assert told is not None
    assert (told.mode, told.threshold, told.bundle) == ("fixed", 0.5, EDGE_BUNDLE)


def test_a_closed_client_leaves_no_thread_behind(seen: Seen) -> None:
    ask_sync(is_valid)
    assert not [thread for thread in threading.enumerate() if "errands" in thread.name]
