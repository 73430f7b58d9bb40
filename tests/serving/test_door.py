"""What a request's head alone may be refused for: nothing that its body would not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tierline.wire import ScoreRequest, encode_request
from tierline_serving.admission import STALE_AFTER, WARM_AFTER, Backlog
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


def asking(candidates: int) -> ScoreRequest:
    return ScoreRequest("m", {}, {"item": np.zeros((candidates, 64), np.float32)})


STEPS = st.one_of(
    st.tuples(
        st.just("ask"),
        st.sampled_from([1, 3, 10]),  # candidates
        st.sampled_from([1.5, 4.0, 12.0]),  # times ROW, to the deadline
        st.sampled_from(["critical", "default", "sheddable"]),
    ),
    st.sampled_from([("batch",), ("leave",), ("wait",)]),
)
SOON, LATER = ("ask", 1, 1.5, "default"), ("ask", 1, 12.0, "default")


@settings(max_examples=100)
@example([LATER, SOON, ("leave",), SOON])
@example([("ask", 1, 12.0, "critical"), ("ask", 1, 3.0, "sheddable"), ("ask", 1, 3.0, "default")])
@example([("ask", 100, 60.0, "default"), ("wait",), ("ask", 100, 19.0, "default")])
@example([LATER, SOON, ("ask", 1, 4.0, "default")])
@example([LATER, LATER, LATER, ("ask", 10, 4.0, "default"), ("ask", 1, 4.0, "default")])
@given(st.lists(STEPS, max_size=40))
def test_who_is_turned_away_like_another_before_him_would_be_turned_away_alone(
    steps: list[tuple[str, ...] | tuple[str, int, float, str]],
) -> None:
    door = Door(Batcher(BatchLimits(max_batch_rows=4)))
    for rows in range(1, 5):
        for _ in range(WARM_AFTER):
            door.admission.observe(rows, ROW * rows, now=0.0)
            size = Pending(asking(rows), rows, 9.0, 0.0, untold).size
            door.admission.learn_size(rows, size)
    now, held = 0.01, list[Pending]()
    for step in steps:
        if step[0] == "ask":
            _, rows, budget, criticality = step
            assert isinstance(rows, int)
            assert isinstance(budget, float)
            assert isinstance(criticality, str)
            request = asking(rows)
            size, until = length_of(request), now + budget * ROW
            backlog = Backlog(door._batcher.queued_rows)
            kept, door._last_late = door._last_late, None
            expected = door.foresee(size, until, backlog, now, criticality)
            door._last_late = kept  # what it remembers changes nothing
            error = door.foresee(size, until, backlog, now, criticality)
            assert (error is None) == (expected is None)
            assert type(error) is type(expected)
            pending = Pending(request, rows, until, now, untold)
            if error is None and door.admit(pending, backlog, now, "", criticality) is None:
                held.append(pending)
        elif step[0] == "batch":
            door._batcher.take(now, 4)
            door.drained()
            now += ROW / 50
        elif step[0] == "wait":
            now += 2 * STALE_AFTER
        elif held:
            door._batcher.withdraw(held.pop())


def queued(door: Door, until: float, criticality: str = "default", rows: int = 1) -> Pending:
    pending = Pending(a_recommendation(5), rows, until, 0.0, untold)
    assert door.admit(pending, NOBODY, 0.0, "", criticality) is None
    return pending


def a_busy_door(**limits: int) -> Door:
    """Batches of one row, ROW seconds each."""
    door = Door(Batcher(BatchLimits(max_batch_rows=1, **limits)))
    for _ in range(WARM_AFTER):
        door.admission.observe(1, ROW, now=0.0)
    return door


def told(door: Door, criticality: str, now: float = 0.0) -> dict[Pending, str]:
    """Who is told what when a request of this class has been admitted."""
    backlog = Backlog(door._batcher.queued_rows)
    return {pending: str(error) for pending, error in door.overtaken(backlog, now, criticality)}


def test_who_is_late_behind_a_more_critical_newcomer_is_told_at_once() -> None:
    door = a_busy_door()
    late, patient = queued(door, 1.5 * ROW), queued(door, 9.0)
    queued(door, 0.9, "critical")
    (message,) = told(door, "critical").values()
    assert message == "more critical calls took its place in the queue; try later or elsewhere"
    assert not door._batcher.withdraw(late)
    assert door._batcher.withdraw(patient)


def test_nobody_is_late_behind_a_newcomer_of_his_own_class_or_below() -> None:
    door = a_busy_door()
    queued(door, 1.5 * ROW)
    queued(door, 9.0)
    queued(door, 9.0, "sheddable")
    assert told(door, "default") == {}
    assert told(door, "sheddable") == {}


def test_who_leaves_makes_room_for_those_behind_him() -> None:
    door = a_busy_door()
    first, second = queued(door, 1.5 * ROW), queued(door, 2.5 * ROW)
    queued(door, 0.9, "critical")
    assert list(told(door, "critical")) == [first]
    assert door._batcher.withdraw(second)


def test_the_queue_is_looked_through_once_a_batch() -> None:
    door = a_busy_door()
    first, second = queued(door, 1.5 * ROW), queued(door, 2.5 * ROW)
    for _ in range(2):
        queued(door, 0.9, "critical")
    assert list(told(door, "critical")) == [first, second]
    third = queued(door, 4.5 * ROW)
    for _ in range(2):
        queued(door, 0.9, "critical")
    assert told(door, "critical") == {}
    door.drained()
    assert list(told(door, "critical")) == [third]


def test_nobody_is_sent_away_on_a_guess() -> None:
    door = Door(Batcher(BatchLimits(max_batch_rows=1)))
    for _ in range(WARM_AFTER - 1):
        door.admission.observe(1, ROW, now=0.0)
    queued(door, 1.5 * ROW)
    queued(door, 0.9, "critical")
    assert told(door, "critical") == {}
