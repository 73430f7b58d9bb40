"""A call's criticality reaches the endpoint; a default one costs no header."""

from __future__ import annotations

import numpy as np
import pytest

from tierline import Client, Criticality
from tierline._channels import HttpChannel, Outgoing
from tierline._transports.base import WireRequest, WireResponse
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest, encode_reply, read_headers

REPLY = ScoreReply("m", "1@000000000000", np.zeros(2, np.float32))
REQUEST = ScoreRequest("m", {}, {CANDIDATE_IDS: np.array([1, 2])})


class Keeping:
    """A transport that keeps the headers it was given."""

    headers: dict[str, str]

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        self.headers = dict(request.headers)
        return WireResponse(200, {}, b"".join(encode_reply(REPLY)))

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("kind", list(Criticality))
def test_an_attempt_carries_its_calls_criticality_and_default_is_not_said(
    kind: Criticality,
) -> None:
    transport = Keeping()
    HttpChannel(transport).ask(Outgoing(REQUEST, "r1", None, kind), 1, 1.0)
    assert ("x-tierline-criticality" in transport.headers) is (kind is not Criticality.DEFAULT)
    assert read_headers(transport.headers, now=0.0).criticality is kind


def test_the_client_hands_it_on() -> None:
    with Client(edge=["http://127.0.0.1:9"]) as client:
        _, outgoing = client._call(
            "m", {}, [1], None, 1.0, None, "edge_only", None, None, None, "sheddable"
        )
    assert outgoing.criticality is Criticality.SHEDDABLE
