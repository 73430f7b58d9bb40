"""An edge whose items have neighbours: their gain in every score, exact, whoever else asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundles
from asking import answer, ask, candidate_lists, histories
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import ITEMS, expected_state, gains, int8_rows, item_rows

from tierline_edge.embeddings import open_neighbours
from tierline_edge.scorer import EdgeScorer
from tierline_serving.bundle import Bundle


@given(histories, candidate_lists)
def test_candidates_score_as_the_network_says_and_their_neighbours_add(
    boosted: EdgeScorer, int8_boosted: EdgeScorer, history: list[int], wanted: list[int]
) -> None:
    for scorer, rows in ((boosted, item_rows()), (int8_boosted, int8_rows())):
        reply = answer(scorer, ask(history, wanted))
        hidden, doubt = expected_state(np.array(history, np.int64), rows)
        scores = rows[wanted] @ hidden + gains(history)[wanted]
        np.testing.assert_allclose(reply.scores, scores, atol=1e-5)
        assert reply.uncertainty == pytest.approx(doubt, abs=1e-5)


@given(histories, st.integers(1, ITEMS + 5))
def test_the_best_of_the_catalogue_are_those_of_all_scores_with_all_gains(
    int8_sequence: EdgeScorer, int8_boosted: EdgeScorer, history: list[int], k: int
) -> None:
    plain, reply = (
        answer(int8_sequence, ask(history, ITEMS)),
        answer(int8_boosted, ask(history, k)),
    )
    assert plain.items is not None
    assert reply.items is not None
    items = plain.items[plain.items >= 0]
    scores = plain.scores[: items.size] + gains(history)[items]
    order = np.lexsort((items, -scores))[:k]
    assert reply.items[: order.size].tolist() == items[order].tolist()
    assert reply.scores[: order.size].tobytes() == scores[order].tobytes()
    assert (reply.items[order.size :] == -1).all()
    assert np.isneginf(reply.scores[order.size :]).all()


@given(histories, st.integers(1, ITEMS + 5))
def test_float_rows_give_them_too(
    sequence: EdgeScorer, boosted: EdgeScorer, history: list[int], k: int
) -> None:
    plain, reply = answer(sequence, ask(history, ITEMS)), answer(boosted, ask(history, k))
    assert plain.items is not None
    items = plain.items[plain.items >= 0]
    wanted = np.sort(plain.scores[: items.size] + gains(history)[items])[::-1][:k]
    np.testing.assert_allclose(reply.scores[: wanted.size], wanted, atol=1e-5)


@given(
    st.lists(
        st.tuples(histories, candidate_lists | st.integers(1, ITEMS + 5)), min_size=1, max_size=20
    )
)
def test_an_answer_does_not_depend_on_its_batch_mates(
    boosted: EdgeScorer, int8_boosted: EdgeScorer, asked: list[tuple[list[int], Any]]
) -> None:
    requests = [ask(*each) for each in asked]
    for scorer in (boosted, int8_boosted):
        for request, together in zip(requests, scorer.score(requests), strict=True):
            (alone,) = scorer.score([request])
            assert together.scores.tobytes() == alone.scores.tobytes()
            assert together.uncertainty == alone.uncertainty
            if alone.items is not None and together.items is not None:
                assert together.items.tolist() == alone.items.tolist()


def test_neighbours_change_what_is_served(
    int8_sequence: EdgeScorer, int8_boosted: EdgeScorer
) -> None:
    lists = [
        [answer(scorer, ask([item], 5)).items for scorer in (int8_sequence, int8_boosted)]
        for item in range(1, ITEMS + 1)
    ]
    assert sum(not np.array_equal(*both) for both in lists) > ITEMS / 2


def test_a_served_table_is_in_memory_unless_the_copy_is_private(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path, neighbours=True)
    copied = open_neighbours(bundle)
    mapped = open_neighbours(Bundle(**{**_fields(bundle), "is_private": True}))
    assert copied is not None
    assert mapped is not None
    assert copied.ids.flags.owndata
    assert not mapped.ids.flags.owndata
    assert copied.ids.tolist() == mapped.ids.tolist() == tiny_bundles.neighbour_table().ids.tolist()


def test_a_bundle_without_neighbours_has_none(sequence_bundle: Bundle) -> None:
    assert open_neighbours(sequence_bundle) is None


def _fields(bundle: Bundle) -> dict[str, Any]:
    return {name: getattr(bundle, name) for name in ("path", "manifest", "digest", "signed_by")}
