"""No byte of a forbidden field reaches a tier, a log, a repr or an error, whatever fails."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tierline
from tierline import Answer, HealthPolicy, HedgePolicy, Mode, RetryPolicy, Sovereignty
from tierline._config import ClientConfig
from tierline._core.explain import never_asked, permitted
from tierline.testing.loop import SimLoop

from .sovereign_fleet import (
    TIER_OF,
    TIERS,
    TRACE,
    Arrays,
    AsyncRecordedTransport,
    Listener,
    RecordedTransport,
    Recorder,
    a_request,
    channels_of,
    hidden_from,
    markers,
    policies,
)

CALLS = 3
CASES: dict[str, st.SearchStrategy[Any]] = {  # Any: each argument has a type of its own
    "of_client": st.just(Sovereignty()) | policies().filter(lambda policy: _asks_anybody(policy)),
    "of_call": st.none() | policies(),
    "seed": st.integers(0, 2**32),
    "mode": st.sampled_from(Mode),
    "whole_catalogue": st.booleans(),
}
SHELLS = st.sampled_from([None, HedgePolicy(after=0.2)])  # in the caller's thread, on threads


def config(
    policy: Sovereignty, hedge: HedgePolicy | None, health: HealthPolicy | None = None
) -> ClientConfig:
    retry = RetryPolicy(attempts=8, per_tier=3, base=1e-5, cap=1e-5, budget=1.0, floor=100.0)
    return ClientConfig(tiers=TIERS, sovereignty=policy, retry=retry, hedge=hedge, health=health)


def _asks_anybody(policy: Sovereignty) -> bool:
    """No client can be made with a policy that keeps every request from every tier."""
    return len(never_asked(config(policy, None))) < len(permitted(config(policy, None)))


@contextmanager
def listening() -> Iterator[Listener]:
    """Every log line of the process, at every level."""
    listener, root = Listener(), logging.getLogger()
    before = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        yield listener
    finally:
        root.removeHandler(listener)
        root.setLevel(before)


def outcome(answer: object) -> str:
    """Everything an application may print of what it got."""
    if isinstance(answer, Answer):
        return f"{answer!r} {answer.reason} {answer.attempts} {answer.bundle}"
    if not isinstance(answer, tierline.TierlineError):
        return repr(answer)  # a model's description
    told = "".join(traceback.format_exception(answer))
    return f"{answer} {answer!r} {told} {getattr(answer, 'attempts', ())}"


def judge(
    recorder: Recorder, texts: list[str], asked: list[Sovereignty], spaces: dict[str, Arrays]
) -> None:
    """Compare what was written with what might be."""
    for url, written in recorder.sent:
        if written.startswith(b"GET"):  # asks about a model: no request, so the client's word
            assert asked[0].permits(TIER_OF[url])
            continue
        for marker in markers(TIER_OF[url], asked, spaces):
            assert marker is not None, f"{url} must not be asked"
            assert marker not in written, f"{url} has seen a field it must not see"
        if any(shown_trace(policy, url) != "allow" for policy in asked):
            assert TRACE[3:35].encode() not in written
    values = [v for arrays in spaces.values() for a in arrays.values() for v in a.tolist()]
    ruled = any(policy.fields for policy in asked)
    for text in texts if ruled else ():
        assert not [value for value in values if repr(value) in text]


def shown_trace(policy: Sovereignty, url: str) -> str:
    for rule in policy.fields:
        if rule.name == "call.traceparent" and rule.concerns(TIER_OF[url]):
            return rule.action
    return policy.default or "allow"


@settings(max_examples=150)
@given(hedge=SHELLS, **CASES)
def test_nothing_forbidden_is_written_by_the_client_for_threads(
    hedge: HedgePolicy | None,
    of_client: Sovereignty,
    of_call: Sovereignty | None,
    seed: int,
    mode: Mode,
    whole_catalogue: bool,
) -> None:
    recorder, (query, candidates) = Recorder(seed), a_request(seed)
    opened = channels_of(recorder, RecordedTransport)
    texts: list[str] = []
    with (
        listening() as listener,
        mock.patch("tierline._channels.open_transport", opened),
        tierline.Client(config=config(of_client, hedge)) as client,
    ):
        options: dict[str, Any] = {
            "mode": mode,
            "traceparent": TRACE,
            "sovereignty": of_call,
            "query": query,
        }
        ask: Callable[[], Answer] = partial(client.score, "m", candidates=candidates, **options)
        if whole_catalogue:
            ask = partial(client.recommend, "m", k=3, **options)
        asks: list[Callable[[], object]] = [*[ask] * CALLS, partial(client.prepare, "m")]
        for call in asks:
            try:
                texts.append(outcome(call()))
            except tierline.TierlineError as error:
                texts.append(outcome(error))
        texts += [repr(client.config), *listener.lines]
    asked = [of_client] if of_call is None else [of_client, of_call]
    spaces = {"query": query} if whole_catalogue else {"query": query, "candidates": candidates}
    judge(recorder, texts, asked, spaces)


@settings(max_examples=150)
@given(**CASES)
def test_nothing_forbidden_is_written_by_the_client_for_asyncio(
    of_client: Sovereignty,
    of_call: Sovereignty | None,
    seed: int,
    mode: Mode,
    whole_catalogue: bool,
) -> None:
    recorder, (query, candidates) = Recorder(seed), a_request(seed)
    opened = channels_of(recorder, AsyncRecordedTransport)
    texts: list[str] = []
    loop = SimLoop(seed)

    class Timed(tierline.AsyncClient):
        _clock = staticmethod(loop.time)

    async def calls() -> None:
        hedge = HedgePolicy(after=0.001, budget=1.0)
        health = HealthPolicy(interval=0.004, timeout=0.003)
        async with Timed(config=config(of_client, hedge, health)) as client:
            options: dict[str, Any] = {
                "mode": mode,
                "traceparent": TRACE,
                "sovereignty": of_call,
                "query": query,
            }
            ask: Callable[[], Awaitable[Answer]] = partial(
                client.score, "m", candidates=candidates, **options
            )
            if whole_catalogue:
                ask = partial(client.recommend, "m", k=3, **options)
            asks: list[Callable[[], Awaitable[object]]] = [
                *[ask] * CALLS,
                partial(client.prepare, "m"),
            ]
            for call in asks:
                await asyncio.sleep(0.01)  # virtual: probes go out meanwhile
                try:
                    texts.append(outcome(await call()))
                except tierline.TierlineError as error:
                    texts.append(outcome(error))
            texts.append(repr(client.config))

    with listening() as listener, mock.patch("tierline._channels.open_async_transport", opened):
        loop.run(calls())
    assert loop.complaints == []
    asked = [of_client] if of_call is None else [of_client, of_call]
    spaces = {"query": query} if whole_catalogue else {"query": query, "candidates": candidates}
    judge(recorder, [*texts, *listener.lines], asked, spaces)


def test_without_rules_every_tier_sees_every_byte_so_the_judge_can_find_some() -> None:
    recorder, (query, candidates) = Recorder(3), a_request(3)
    opened = channels_of(recorder, RecordedTransport)
    with (
        mock.patch("tierline._channels.open_transport", opened),
        tierline.Client(config=config(Sovereignty(), None)) as client,
    ):
        for _ in range(20):
            try:
                client.score("m", query=query, candidates=candidates, traceparent=TRACE)
            except tierline.TierlineError:
                continue
    wanted = np.concatenate([*query.values(), *candidates.values()])
    assert {TIER_OF[url].name for url, _ in recorder.sent} >= {"edge-private-eu"}
    for written in [said for _, said in recorder.sent if not said.startswith(b"GET")]:
        assert all(np.asarray(v).tobytes() in written for v in query["history"])
        assert TRACE.encode() in written
    assert len(wanted) == 14
    strict = Sovereignty(fields=(tierline.FieldRule(name="user", action="drop"),), default="allow")
    assert hidden_from(TIERS[0], strict, "query", "user") is strict.fields[0]
