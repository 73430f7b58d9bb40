"""What an endpoint says of its queue steers the next call and fades; nonsense is not believed."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._channels import EXPECTED_WAIT, HttpChannel, Outgoing
from tierline._config import ClientConfig, Endpoint, Tier
from tierline._core.balancing import lesser
from tierline._core.endpoints import EndpointState
from tierline._core.estimators import HINT_HALVES, QueueHint
from tierline._transports.base import WireRequest, WireResponse
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest, encode_reply

REPLY = ScoreReply("m", "1@000000000000", np.zeros(2, np.float32), timings={"queue": 0.5})


def an_endpoint(name: str) -> EndpointState:
    endpoint = Endpoint(url=f"http://{name}:1")
    tier = Tier(name="edge", kind="edge", endpoints=(endpoint,))
    state = EndpointState(endpoint, tier, ClientConfig(tiers=(tier,)))
    state.latency.observe(0.01, 0.0)
    return state


def test_of_two_equals_the_one_with_the_shorter_queue_is_asked() -> None:
    one, other = an_endpoint("one"), an_endpoint("other")
    one.queue.observe(0.2, 0.0, 0.0)
    assert lesser(one, other, 0.0, random.Random(1)) is other
    one.queue.observe(0.0, 0.0, 0.0)
    other.queue.observe(0.1, 0.0, 0.0)
    assert lesser(one, other, 0.0, random.Random(1)) is one


def test_what_the_last_answer_had_waited_itself_is_no_news() -> None:
    hint = QueueHint()
    hint.observe(0.2, 0.3, 0.0)
    assert hint.value(0.0) == 0.0


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 10))
def test_a_hint_is_never_negative_and_fades(expected: float, waited: float, later: float) -> None:
    hint = QueueHint()
    hint.observe(expected, waited, 5.0)
    now = hint.value(5.0)
    assert now == max(0.0, expected - waited)
    assert 0.0 <= hint.value(5.0 + later) <= now
    assert hint.value(5.0 + HINT_HALVES) == pytest.approx(now / 2)


class Answering:
    """A transport with one answer."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        return WireResponse(200, self.headers, b"".join(encode_reply(REPLY)))

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("header", "expected"),
    [("12.500", 0.0125), ("0.000", 0.0), ("nan", None), ("-1", None), ("1e9", None), ("", None)],
)
def test_the_header_becomes_a_timing_or_is_ignored(header: str, expected: float | None) -> None:
    channel = HttpChannel(Answering({"x-tierline-queue-ms": header}))
    request = ScoreRequest("m", {}, {CANDIDATE_IDS: np.arange(1, 3)})
    reply = channel.ask(Outgoing(request, "c", None), 1, 1.0)
    assert reply.timings.get(EXPECTED_WAIT) == expected
    assert reply.timings["queue"] == 0.5
