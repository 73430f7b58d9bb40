"""An edge with part of the catalogue: it recommends what it has, and says whom it knows less of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny_bundles
from asking import answer, ask, candidate_lists, histories, questions
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import ITEMS, PART, Floats, carried_rows, expected_state

from tierline_edge.embeddings import open_carried
from tierline_edge.scorer import EdgeScorer, load_scorer
from tierline_kernels import dequantize_rows, quantize_rows


class Part(NamedTuple):
    """An edge with PART of the items, and the rows it computes with."""

    scorer: EdgeScorer
    rows: Floats


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int8"])
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Part:
    folder = tmp_path_factory.mktemp("part")
    bundle = tiny_bundles.write_sequence(folder, int8=request.param, carried=PART)
    rows = carried_rows(PART)
    rows = dequantize_rows(quantize_rows(rows)) if request.param else rows
    return Part(load_scorer(bundle, threads=1), rows)


@given(histories, st.integers(1, ITEMS + 5))
def test_it_recommends_unseen_items_it_carries_by_their_ids(
    part: Part, history: list[int], k: int
) -> None:
    reply = answer(part.scorer, ask(history, k))
    assert reply.items is not None
    named = [item for item in reply.items.tolist() if item != -1]
    left = set(PART.ids.tolist()) - set(history)
    assert len(named) == len(set(named)) == min(k, len(left))
    assert set(named) <= left
    if k >= len(left):
        assert set(named) == left


@given(histories, candidate_lists)
def test_what_it_does_not_carry_is_scored_as_the_mean_of_all_such_items(
    part: Part, history: list[int], wanted: list[int]
) -> None:
    reply = answer(part.scorer, ask(history, wanted))
    hidden, _ = expected_state(PART.rows_of(np.array(history, np.int64)), part.rows)
    expected = part.rows[PART.rows_of(np.array(wanted))] @ hidden
    np.testing.assert_allclose(reply.scores, expected, atol=1e-5)


@given(histories, candidate_lists | st.just(3))
def test_what_was_lost_is_in_its_doubt(
    part: Part, history: list[int], wanted: list[int] | int
) -> None:
    reply = answer(part.scorer, ask(history, wanted))
    lost = PART.lost_of([np.array(history, np.int64)])[0]
    if isinstance(wanted, list):
        strange = [each for each in wanted if each not in PART.ids]
        lost = max(lost, len(strange) / len(wanted))
    _, own = expected_state(PART.rows_of(np.array(history, np.int64)), part.rows)
    assert reply.uncertainty == pytest.approx(PART.doubt(lost, own), abs=1e-5)
    assert reply.uncertainty is not None
    assert (reply.uncertainty > 0.5) == (lost > PART.above)


@given(st.lists(questions, min_size=2, max_size=7))
def test_nobody_is_answered_otherwise_in_company(
    part: Part, asked: list[tuple[list[int], list[int] | int]]
) -> None:
    requests = [ask(*question) for question in asked]
    for request, reply in zip(requests, part.scorer.score(requests), strict=True):
        alone = answer(part.scorer, request)
        assert reply.scores.tobytes() == alone.scores.tobytes()
        assert reply.uncertainty == alone.uncertainty
        assert (reply.items is None) == (alone.items is None)
        if reply.items is not None and alone.items is not None:
            assert reply.items.tolist() == alone.items.tolist()


def test_clients_are_told_how_many_items_it_carries(part: Part) -> None:
    assert part.scorer.info.details["items"] == ITEMS
    assert part.scorer.info.details["carried"] == PART.ids.size


def test_what_it_carries_is_in_memory_unless_the_copy_is_private(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path, carried=PART)
    copied, mapped = (open_carried(each) for each in (bundle, replace(bundle, is_private=True)))
    assert copied is not None
    assert mapped is not None
    assert copied.ids.flags.owndata
    assert copied.lost.flags.owndata
    assert not mapped.lost.flags.owndata
    assert copied.ids.tolist() == mapped.ids.tolist() == PART.ids.tolist()
