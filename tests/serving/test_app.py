"""The HTTP surface, called in process: routes, limits, and every way a request can end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from fake_scorer import BUNDLE, POISON, Caller, FakeScorer, PoisonError, a_request, until
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline.deadline import DEADLINE_HEADER
from tierline.wire import ScoreReply, ScoreRequest
from tierline.wire.frames import decode_reply, encode_request
from tierline_serving.app import App
from tierline_serving.batching import BatchLimits, Runner
from tierline_serving.handlers import Handlers
from tierline_serving.lifecycle import Event, Lifecycle
from tierline_serving.metrics import Metrics
from tierline_serving.served import Generation, Line, Served
from tierline_serving.settings import ServerSettings
from tierline_serving.tracing import Tracing

MAX_BODY = 64 * 1024
PRIOR = ScoreReply(
    model="ranker",
    bundle=BUNDLE,
    scores=np.array([0.9, 0.1], np.float32),
    items=np.array([7, 8], np.int64),
)


@dataclass
class Endpoint:
    """An endpoint in this process."""

    app: App
    scorer: FakeScorer
    runner: Runner
    lifecycle: Lifecycle
    served: Served

    async def get(self, path: str, method: str = "GET") -> Caller:
        return await Caller([b""]).call(self.app, path, method)

    async def post(self, body: bytes, **headers: str) -> Caller:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        caller = Caller([body], asyncio.Event())
        return await caller.call(self.app, "/v1/score", "POST", named)

    async def score(self, request: ScoreRequest, **headers: str) -> Caller:
        return await self.post(framed(request), **headers)


@asynccontextmanager
async def endpoint(
    batch: BatchLimits | None = None, *, warm: bool = True
) -> AsyncIterator[Endpoint]:
    config = ServerSettings(
        max_body_bytes=MAX_BODY, batch=batch or BatchLimits(), read_timeout=0.05
    )
    scorer, lifecycle, metrics = FakeScorer(), Lifecycle(), Metrics()
    runner = Runner(scorer, config.batch, on_batch=metrics.batch_finished)
    runner.start()
    if warm:
        lifecycle.on(Event.WARMED)
    served = Served.of({"ranker": runner}, {"ranker": PRIOR})
    handlers = Handlers(served, config, lifecycle, metrics)
    try:
        yield Endpoint(App(handlers, config), scorer, runner, lifecycle, served)
    finally:
        scorer.gate.set()
        assert runner.close(timeout=20)


def framed(request: ScoreRequest) -> bytes:
    return b"".join(encode_request(request))


async def occupy(node: Endpoint) -> asyncio.Task[Caller]:
    """A first request that keeps the scoring thread busy until the gate opens."""
    node.scorer.gate.clear()
    first = asyncio.create_task(node.score(a_request(1)))
    await until(node.scorer.entered.is_set)
    return first


def test_a_scored_request_carries_scores_times_and_load_hints() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.score(a_request(5, 6), x_request_id="abc")
            reply = decode_reply(answer.body)
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/x-tierline"
            assert (reply.scores.tolist(), reply.bundle) == ([5.0, 6.0], BUNDLE)
            assert set(reply.timings) == {"queue", "compute"}
            assert answer.headers["x-tierline-bundle"] == BUNDLE
            assert answer.headers["x-request-id"] == "abc"
            assert float(answer.headers["x-tierline-queue-ms"]) >= 0
            assert float(answer.headers["x-tierline-compute-ms"]) >= 0
            assert "connection" not in answer.headers

    asyncio.run(scenario())


def test_models_and_metadata_are_json() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            listed = json.loads((await node.get("/v1/models")).body)
            one = json.loads((await node.get("/v1/models/ranker")).body)
            metadata = json.loads((await node.get("/metadata")).body)
            assert listed == {"models": [one]}
            assert (one["name"], one["bundle"], one["kind"]) == ("ranker", BUNDLE, "sequence")
            assert (metadata["phase"], metadata["models"]) == ("ready", [one])

    asyncio.run(scenario())


def test_the_prior_is_a_reply_frame() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            reply = decode_reply((await node.get("/v1/models/ranker/prior")).body)
            assert reply.items is not None
            assert reply.items.tolist() == [7, 8]

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/other/prior"])
def test_an_unknown_model_is_404_and_names_the_known_ones(path: str) -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.get(path)
            assert (answer.status, answer.error.code) == (404, "model_not_found")
            assert "models: ranker" in answer.error.message

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/models/a/b", "/v1/score/x"])
def test_an_unknown_path_is_404(path: str) -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            assert (await node.get(path)).status == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/score", "POST"),
        ("PUT", "/v1/score", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/ranker", "GET"),
        ("POST", "/readyz", "GET"),
    ],
)
def test_the_wrong_verb_is_405_and_names_the_right_one(
    method: str, path: str, allowed: str
) -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.get(path, method)
            assert (answer.status, answer.headers["allow"]) == (405, allowed)

    asyncio.run(scenario())


def test_readiness_follows_the_life_of_the_server_and_liveness_does_not() -> None:
    async def scenario() -> None:
        async with endpoint(warm=False) as node:
            seen = [(await node.get("/readyz")).status]
            node.lifecycle.on(Event.WARMED)
            seen.append((await node.get("/readyz")).status)
            node.lifecycle.on(Event.DRAIN)
            seen.append((await node.get("/readyz")).status)
            assert seen == [503, 200, 503]
            assert (await node.get("/livez")).status == 200

    asyncio.run(scenario())


def test_a_dead_scoring_thread_is_not_ready() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            node.runner.abandon("gone")
            assert (await node.get("/readyz")).status == 503

    asyncio.run(scenario())


def test_a_starting_endpoint_refuses_work_as_unavailable() -> None:
    async def scenario() -> None:
        async with endpoint(warm=False) as node:
            answer = await node.score(a_request(1))
            assert (answer.status, answer.error.code) == (503, "unavailable")

    asyncio.run(scenario())


def test_a_draining_endpoint_still_answers_and_asks_to_leave() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            node.lifecycle.on(Event.DRAIN)
            answer = await node.score(a_request(1))
            assert (answer.status, answer.headers["connection"]) == (200, "close")

    asyncio.run(scenario())


def test_metrics_count_outcomes_batches_and_the_bundle() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            await node.score(a_request(1, 2, 3))
            await node.score(a_request(1, model="other"))
            await until(lambda: node.runner.unanswered == 0)
            answer = await node.get("/metrics")
            text = answer.body.decode()
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert 'tierline_requests_total{code="ok"} 1.0' in text
            assert 'tierline_requests_total{code="model_not_found"} 1.0' in text
            assert 'tierline_batch_rows_sum{model="ranker"} 3.0' in text
            assert "tierline_request_seconds_count 2.0" in text
            assert "tierline_queue_seconds_count 1.0" in text
            assert "tierline_inflight_requests 0.0" in text
            assert "tierline_ready 1.0" in text
            assert f'bundle="{BUNDLE}"' in text

    asyncio.run(scenario())


def test_a_pinned_version_that_is_not_served_is_refused() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            served = await node.score(a_request(1, version=BUNDLE))
            other = await node.score(a_request(1, version="2@ffffffffffff"))
            assert (served.status, other.status) == (200, 404)
            assert BUNDLE in other.error.message

    asyncio.run(scenario())


def test_a_call_that_was_queued_when_a_swap_came_is_answered_by_the_bundle_it_began_with() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            await occupy(node)
            queued = asyncio.create_task(node.score(a_request(5, version=BUNDLE)))
            await until(lambda: node.runner.unanswered == 2)
            other = Runner(FakeScorer(bundle="2@ffffffffffff"))
            other.start()
            (left,) = node.served.move("ranker", Line.of(Generation(other)))
            swapped = await node.score(a_request(6))
            node.scorer.gate.set()
            answer = await queued
            assert (answer.status, answer.headers["x-tierline-bundle"]) == (200, BUNDLE)
            assert swapped.headers["x-tierline-bundle"] == "2@ffffffffffff"
            await left.released()
            assert left.calls == 0
            assert other.close(timeout=20)

    asyncio.run(scenario())


def test_a_deadline_that_is_gone_is_504_and_never_computed() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.score(a_request(1), **{DEADLINE_HEADER: "0.000"})
            assert (answer.status, answer.error.code) == (504, "deadline_exceeded")
            assert node.scorer.scored == []

    asyncio.run(scenario())


def test_a_deadline_that_passes_in_the_queue_is_504_and_never_computed() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            first = await occupy(node)
            answer = await node.score(a_request(2), **{DEADLINE_HEADER: "20"})
            assert (answer.status, answer.error.code) == (504, "deadline_exceeded")
            node.scorer.gate.set()
            assert (await first).status == 200
            assert node.scorer.scored == [1]

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["soon", "-5", "nan", "1e3", ""])
def test_a_deadline_that_is_no_number_of_milliseconds_is_400(text: str) -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.score(a_request(1), **{DEADLINE_HEADER: text})
            assert (answer.status, answer.error.code) == (400, "bad_request")

    asyncio.run(scenario())


def test_an_overloaded_endpoint_says_429_and_when_to_come_back() -> None:
    async def scenario() -> None:
        async with endpoint(BatchLimits(max_queue_requests=1)) as node:
            first = await occupy(node)
            second = asyncio.create_task(node.score(a_request(2)))
            await until(lambda: node.runner.unanswered == 2)
            answer = await node.score(a_request(3))
            assert (answer.status, answer.error.code) == (429, "overloaded")
            assert answer.error.retry_after is not None
            assert int(answer.headers["retry-after"]) >= 1
            node.scorer.gate.set()
            assert [(await first).status, (await second).status] == [200, 200]

    asyncio.run(scenario())


def test_one_poisoned_request_fails_alone_and_its_secret_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> tuple[Caller, list[int]]:
        async with endpoint() as node:
            first = await occupy(node)
            poisoned = asyncio.create_task(node.score(a_request(POISON), x_request_id="find-me"))
            others = [asyncio.create_task(node.score(a_request(i))) for i in (2, 3, 4)]
            await until(lambda: node.runner.unanswered == 5)
            node.scorer.gate.set()
            statuses = [(await each).status for each in (first, *others)]
            return await poisoned, statuses

    with caplog.at_level(logging.ERROR, "tierline.serving"):
        answer, statuses = asyncio.run(scenario())
    assert statuses == [200, 200, 200, 200]
    assert (answer.status, answer.error.code) == (500, "model_failed")
    assert "find-me" in answer.error.message
    assert b"hunter2" not in answer.body
    assert b"Traceback" not in answer.body
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is PoisonError


def test_a_caller_who_hangs_up_in_the_queue_takes_the_work_along() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            first = await occupy(node)
            leaver = Caller([framed(a_request(2))], asyncio.Event())
            leaving = asyncio.create_task(leaver.call(node.app, "/v1/score", "POST"))
            await until(lambda: node.runner.unanswered == 2)
            leaver.hang_up.set()
            await leaving
            assert (leaver.status, node.runner.unanswered) == (0, 1)
            node.scorer.gate.set()
            assert (await first).status == 200
            assert node.scorer.scored == [1]

    asyncio.run(scenario())


def test_a_cancelled_handler_stays_cancelled() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            first = await occupy(node)
            first.cancel()
            await asyncio.wait({first})
            assert first.cancelled()

    asyncio.run(scenario())


def test_a_body_in_pieces_is_put_together() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            body = framed(a_request(5, 6))
            caller = Caller([body[:3], body[3:20], b"", body[20:]], asyncio.Event())
            await caller.call(node.app, "/v1/score", "POST")
            assert decode_reply(caller.body).scores.tolist() == [5.0, 6.0]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        ([b"x"], {"content-length": str(MAX_BODY + 1)}),
        ([b"x" * (MAX_BODY + 1)], {}),
        ([b"x" * (MAX_BODY // 2)] * 9, {}),
    ],
    ids=["announced", "at once", "piece by piece"],
)
def test_a_body_too_large_is_413(pieces: list[bytes], headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            caller = Caller(list(pieces), asyncio.Event())
            await caller.call(node.app, "/v1/score", "POST", headers)
            assert (caller.status, caller.error.code) == (413, "too_large")

    asyncio.run(scenario())


def test_a_body_too_large_is_not_read_to_its_end() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            caller = Caller([b"x" * MAX_BODY] * 100, asyncio.Event())
            await caller.call(node.app, "/v1/score", "POST")
            assert len(caller.pieces) == 98

    asyncio.run(scenario())


def test_a_body_that_stops_coming_is_408() -> None:
    class Staller(Caller):
        async def _receive(self) -> dict[str, object]:
            if self.pieces:
                return {"type": "http.request", "body": self.pieces.pop(), "more_body": True}
            await asyncio.get_running_loop().create_future()
            raise AssertionError("unreachable")

    async def scenario() -> None:
        async with endpoint() as node:
            caller = await Staller([b"TLF"]).call(node.app, "/v1/score", "POST")
            assert (caller.status, caller.error.code) == (408, "bad_request")

    asyncio.run(scenario())


def test_a_caller_who_hangs_up_while_sending_is_forgotten() -> None:
    class Leaver(Caller):
        async def _receive(self) -> dict[str, object]:
            if self.pieces:
                return {"type": "http.request", "body": self.pieces.pop(), "more_body": True}
            return {"type": "http.disconnect"}

    async def scenario() -> None:
        async with endpoint() as node:
            caller = await Leaver([b"TLF"]).call(node.app, "/v1/score", "POST")
            assert (caller.status, caller.body) == (0, b"")

    asyncio.run(scenario())


def test_a_server_that_repeats_the_end_of_a_body_does_not_stop_the_others() -> None:
    class Repeater(Caller):
        repeated = 0

        async def _receive(self) -> dict[str, object]:
            if self.pieces:
                return await super()._receive()
            self.repeated += 1
            if self.repeated == 1000:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}

    async def scenario() -> None:
        async with endpoint() as node:
            node.scorer.gate.clear()
            caller = Repeater([framed(a_request(1))])
            calling = asyncio.create_task(caller.call(node.app, "/v1/score", "POST"))
            await until(lambda: caller.repeated > 1)
            node.scorer.gate.set()
            await calling
            assert caller.status == 200

    asyncio.run(scenario())


@dataclass
class BrokenConnection(Caller):
    """Its connection refuses to be written to."""

    reason: str = ""

    async def _send(self, message: object) -> None:
        raise RuntimeError(self.reason)


def test_a_connection_that_broke_before_the_answer_is_no_fault_of_the_server() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            reason = "unable to perform operation on <TCPTransport>; the handler is closed"
            caller = BrokenConnection([framed(a_request(1))], asyncio.Event(), reason=reason)
            await caller.call(node.app, "/v1/score", "POST")
            assert node.scorer.scored == [1]

    asyncio.run(scenario())


def test_an_answer_that_breaks_the_protocol_is_not_hushed_up() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            caller = BrokenConnection([framed(a_request(1))], asyncio.Event(), reason="too long")
            with pytest.raises(RuntimeError, match="too long"):
                await caller.call(node.app, "/v1/score", "POST")

    asyncio.run(scenario())


def test_a_request_the_model_cannot_score_is_400_before_it_is_queued() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.score(
                ScoreRequest(model="ranker", query={"history": np.array([1], np.int64)}, k=3)
            )
            assert (answer.status, answer.error.code) == (400, "bad_request")
            assert node.scorer.batches == []

    asyncio.run(scenario())


def test_a_model_that_answers_nonsense_is_a_model_failure_not_the_callers_fault() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            broken = ScoreReply(model="ranker", bundle=BUNDLE, scores=np.zeros((2, 2), np.float32))
            node.scorer.score = lambda requests: [broken]  # type: ignore[method-assign]
            answer = await node.score(a_request(1))
            assert (answer.status, answer.error.code) == (500, "model_failed")

    asyncio.run(scenario())


def test_the_default_deadline_bounds_a_request_that_names_none() -> None:
    async def scenario() -> None:
        async with endpoint() as node:
            long = {DEADLINE_HEADER: "99999999"}
            node.scorer.gate.clear()
            asked = [asyncio.create_task(node.score(a_request(1), **long))]
            await until(node.scorer.entered.is_set)
            queue = node.runner._batcher

            async def earliest_with(**headers: str) -> float:
                asked.append(asyncio.create_task(node.score(a_request(2), **headers)))
                await until(lambda: queue.queued_requests == len(asked) - 1)
                return queue.earliest_deadline - time.monotonic()

            assert 50 < await earliest_with(**long) <= 60
            assert 5 < await earliest_with() <= 10
            node.scorer.gate.set()
            assert [each.status for each in await asyncio.gather(*asked)] == [200] * 3

    asyncio.run(scenario())


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_body_is_a_typed_4xx_or_scored_never_a_500(data: st.DataObject) -> None:
    good = framed(a_request(1, 2, 3))
    body = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.integers(0, len(good) - 1).map(lambda cut: good[:cut]),
            st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)).map(
                lambda flip: good[: flip[0]] + bytes([flip[1]]) + good[flip[0] + 1 :]
            ),
            st.binary(min_size=1, max_size=50).map(lambda tail: good + tail),
        )
    )

    async def scenario() -> None:
        async with endpoint() as node:
            answer = await node.post(body)
            if answer.status != 200:
                assert 400 <= answer.status < 500, (answer.status, answer.error)
                assert answer.error.code in {"bad_request", "model_not_found"}

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/score", "/v2/models/ranker/infer", "/rerank"])
def test_a_call_of_any_protocol_is_told_to_the_trace_when_it_ends(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str | None, dict[str, str | float]]] = []

    class Traced:
        def ended(
            self, traceparent: str | None, seconds: float, about: dict[str, str | float]
        ) -> None:
            told.append((traceparent, about))

    monkeypatch.setattr(Tracing, "find", Traced)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def scenario() -> None:
        async with endpoint() as node:
            caller = Caller([b"neither a frame nor a document"])
            headers = {"traceparent": parent, "x-request-id": "abc"}
            assert (await caller.call(node.app, path, "POST", headers)).status == 400

    asyncio.run(scenario())
    [(trace, about)] = told
    assert trace == parent
    assert about["tierline.request_id"] == "abc"
    assert about["tierline.code"] in ("bad_frame", "bad_request")
