"""What a request's head alone may be refused for: nothing that its body would not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.wire import ScoreRequest, encode_request
from tierline_serving.admission import WARM_AFTER, Backlog
from tierline_serving.batching import Batcher, BatchLimits, Pending
from tierline_serving.batching.door import Door
from tierline_serving.batching.pending import Outcome

ROW = 0.05  # seconds of a recommendation
NOBODY = Backlog()


def untold(pending: Pending, outcome: Outcome) -> None:
    raise AssertionError("nothing is settled at the door")


def a_recommendation(history: int) -> ScoreRequest:
    items = np.arange(1, history + 1, dtype=np.int64)
    return ScoreRequest(model="shop", query={"history": items}, k=10)


def length_of(request: ScoreRequest) -> int:
    """Bytes that its head announces."""
    return sum(len(bytes(part)) for part in encode_request(request))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_recommendations_are_not_refused_by_their_length(histories: list[int]) -> None:
    door = Door(Batcher(BatchLimits()))
    for _ in range(WARM_AFTER):
        door.admission.observe(1, ROW, now=0.0)
    for history in histories:
        now, request = 0.01, a_recommendation(history)  # so soon that no belief is stale
        until = now + 1.5 * ROW
        assert door.foresee(length_of(request), until, NOBODY, now, "default") is None
        pending = Pending(request, 1, until, now, untold)
        assert door.admit(pending, NOBODY, now, "", "default") is None
        door._batcher.clear()


@pytest.mark.parametrize("candidates", [100, 1000])
def test_candidates_that_cannot_be_scored_in_time_are_refused_by_their_length(
    candidates: int,
) -> None:
    door = Door(Batcher(BatchLimits()))
    request = ScoreRequest(
        model="shop",
        query={"user": np.zeros(64, np.float32)},
        candidates={"item": np.zeros((candidates, 64), np.float32)},
    )
    for _ in range(WARM_AFTER):
        door.admission.observe(candidates, ROW, now=0.0)
        door.admission.learn_size(candidates, Pending(request, candidates, 9.0, 0.0, untold).size)
    assert door.foresee(length_of(request), 0.5 * ROW, NOBODY, 0.0, "default") is not None
    assert door.foresee(length_of(request), 1.5 * ROW, NOBODY, 0.0, "default") is None
