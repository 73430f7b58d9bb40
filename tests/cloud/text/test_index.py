"""The index finds what brute force finds, and late interaction is what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import ConfigurationError
from tierline_cloud.text.catalogue import parse_catalogue
from tierline_cloud.text.encoding import Role, TextEncoder
from tierline_cloud.text.index import TextIndex, build_index, sizes
from tierline_cloud.text.interaction import late_interaction, late_interaction_exact
from tierline_kernels import dequantize_rows, quantize_rows


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_late_interaction_is_its_formula(words: int, lengths: list[int], seed: int) -> None:
    dice = np.random.default_rng(seed)
    query = dice.normal(size=(words, 16)).astype(np.float32)
    rows = quantize_rows(dice.normal(size=(sum(lengths), 16)).astype(np.float32))
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    items = dice.permutation(len(lengths)).astype(np.int64)
    exact = dequantize_rows(rows)
    wanted = [
        late_interaction_exact(query, exact[offsets[item] : offsets[item + 1]]) for item in items
    ]
    got = late_interaction(query, rows, offsets, items)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_an_items_score_is_the_same_whoever_is_asked_beside_it(
    index: TextIndex, encoder: TextEncoder
) -> None:
    query = encoder.encode("red desk lamp", Role.QUERY).tokens
    every = index.score(query, np.arange(1, 11))
    for item in range(1, 11):
        assert index.score(query, np.array([item])).tobytes() == every[item - 1].tobytes()


def test_a_search_that_rescores_everything_is_brute_force(
    index: TextIndex, encoder: TextEncoder
) -> None:
    query = encoder.encode("red desk lamp", Role.QUERY)
    scores = index.score(query.tokens, np.arange(1, 11))
    items, best = index.search(query, 5, rescored=10)
    wanted = np.lexsort((np.arange(1, 11), -scores))[:5] + 1
    np.testing.assert_array_equal(items, wanted)
    np.testing.assert_array_equal(best, scores[wanted - 1])


def test_only_the_nearest_vectors_are_rescored(index: TextIndex, encoder: TextEncoder) -> None:
    query = encoder.encode("hand soap", Role.QUERY)
    items, _ = index.search(query, 3, rescored=3)
    assert set(items) == set(index.retrieve(query.vector, 3))


def test_the_nearest_vectors_are_those_of_the_largest_cosine(
    index: TextIndex, encoder: TextEncoder
) -> None:
    query = encoder.encode("hand soap", Role.QUERY)
    cosines = dequantize_rows(index.vectors)[1:] @ query.vector
    found = index.retrieve(query.vector, 10)
    assert 0 not in found
    assert sorted(found) == list(range(1, 11))
    assert (np.diff(cosines[found - 1]) < 1e-2).all()  # the query is rounded to int8 as well


def test_places_beyond_the_catalogue_are_empty(index: TextIndex, encoder: TextEncoder) -> None:
    items, scores = index.search(encoder.encode("lamp", Role.QUERY), 12, rescored=4)
    np.testing.assert_array_equal(items[10:], [-1, -1])
    assert np.isneginf(scores[10:]).all()
    assert np.isfinite(scores[:10]).all()


def test_the_figures_of_an_index_are_its_arrays(encoder: TextEncoder) -> None:
    texts = ["red " * 40, *["tea cup"] * 600]
    made, fidelity = build_index(encoder, texts)
    assert fidelity.cut == 1
    assert fidelity.mean > 0.9999
    assert made.items == 601
    assert made.tokens.shape == (22 + 2 * 600, 8)
    assert sizes(made, 7) == {
        "encoder": 7,
        "vectors": 602 * 12,
        "tokens": 1222 * 12 + 603 * 8,
        "tokens_float32": 1222 * 8 * 4,
    }


def test_a_catalogue_is_read_by_id_or_by_line() -> None:
    assert parse_catalogue(['{"id": 2, "text": "b"}', "", '{"id": 1, "text": "a"}'], "x") == [
        "a",
        "b",
    ]
    assert parse_catalogue(['{"text": "a", "price": 3}', '{"text": "b"}'], "x") == ["a", "b"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "x holds no items"),
        (["{"], "x, line 1 is no JSON"),
        (['{"text": 3}'], "x, line 1: expected an object like"),
        (['["a"]'], "x, line 1: expected an object like"),
        (['{"id": 0, "text": "a"}'], "an id is a whole number from 1 on, got 0"),
        (['{"id": true, "text": "a"}'], "got True"),
        (['{"id": 1, "text": "a"}', '{"id": 1, "text": "b"}'], "line 2: item 1 was there"),
        (['{"id": 1, "text": "a"}', '{"id": 3, "text": "b"}'], "1 to 2 for 2 items, and 2 is"),
        (['{"text": "  "}'], "must hold something to read"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(lines: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        parse_catalogue(lines, "x")
