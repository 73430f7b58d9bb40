"""An edge with part of the catalogue: it recommends what it has, and says whom it knows less of."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_bundles
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import ITEMS, PART, carried_rows, expected_state

from tierline.wire import ScoreReply, ScoreRequest
from tierline_edge.scorer import EdgeScorer, load_scorer

histories = st.lists(st.integers(1, ITEMS), max_size=10)
candidate_lists = st.lists(st.integers(1, ITEMS), min_size=1, max_size=30)
questions = st.tuples(histories, candidate_lists | st.integers(1, ITEMS + 5))


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int8"])
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EdgeScorer:
    folder = tmp_path_factory.mktemp("part")
    bundle = tiny_bundles.write_sequence(folder, int8=request.param, carried=PART)
    return load_scorer(bundle, threads=1)


def ask(history: list[int], wanted: list[int] | int) -> ScoreRequest:
    """Candidates when a list is wanted, the best k when a number is."""
    query = {"history": np.array(history, np.int64)}
    if isinstance(wanted, int):
        return ScoreRequest(model="ranker", query=query, k=wanted)
    return ScoreRequest(model="ranker", query=query, candidates={"id": np.array(wanted, np.int64)})


def answer(scorer: EdgeScorer, request: ScoreRequest) -> ScoreReply:
    scorer.validate(request)
    (reply,) = scorer.score([request])
    return reply


@given(histories, st.integers(1, ITEMS + 5))
def test_it_recommends_unseen_items_it_carries_by_their_ids(
    part: EdgeScorer, history: list[int], k: int
) -> None:
    reply = answer(part, ask(history, k))
    assert reply.items is not None
    named = [item for item in reply.items.tolist() if item != -1]
    left = set(PART.ids.tolist()) - set(history)
    assert len(named) == len(set(named)) == min(k, len(left))
    assert set(named) <= left
    if k >= len(left):
        assert set(named) == left


@given(histories, candidate_lists)
def test_what_it_does_not_carry_is_scored_as_the_mean_of_all_such_items(
    part: EdgeScorer, history: list[int], wanted: list[int]
) -> None:
    reply = answer(part, ask(history, wanted))
    rows = carried_rows(PART)
    hidden, _ = expected_state(PART.rows_of(np.array(history, np.int64)), rows)
    expected = rows[PART.rows_of(np.array(wanted))] @ hidden
    np.testing.assert_allclose(reply.scores, expected, atol=0.15 if _is_int8(part) else 1e-5)


@given(histories, candidate_lists | st.just(3))
def test_what_was_lost_is_in_its_doubt(
    part: EdgeScorer, history: list[int], wanted: list[int] | int
) -> None:
    reply = answer(part, ask(history, wanted))
    lost = PART.lost_of([np.array(history, np.int64)])[0]
    if isinstance(wanted, list):
        strange = [each for each in wanted if each not in PART.ids]
        lost = max(lost, len(strange) / len(wanted))
    rows = carried_rows(PART)
    _, own = expected_state(PART.rows_of(np.array(history, np.int64)), rows)
    assert reply.uncertainty == pytest.approx(PART.doubt(lost, own), abs=0.05)
    assert reply.uncertainty is not None
    assert (reply.uncertainty > 0.5) == (lost > PART.above)


@given(st.lists(questions, min_size=2, max_size=7))
def test_nobody_is_answered_otherwise_in_company(
    part: EdgeScorer, asked: list[tuple[list[int], list[int] | int]]
) -> None:
    requests = [ask(*question) for question in asked]
    for request, reply in zip(requests, part.score(requests), strict=True):
        alone = answer(part, request)
        assert reply.scores.tobytes() == alone.scores.tobytes()
        assert reply.uncertainty == alone.uncertainty
        assert (reply.items is None) == (alone.items is None)
        if reply.items is not None and alone.items is not None:
            assert reply.items.tolist() == alone.items.tolist()


def test_clients_are_told_how_many_items_it_carries(part: EdgeScorer) -> None:
    assert part.info.details["items"] == ITEMS
    assert part.info.details["carried"] == PART.ids.size


def _is_int8(scorer: EdgeScorer) -> bool:
    return "items.codes.npy" in scorer._bundle.manifest.files
