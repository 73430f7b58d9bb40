"""The made-up shop is seeded and true to its word lists; its judge is right on lists by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tierline_cloud.text.encoding import TextEncoder
from tierline_cloud.text.evaluation import Words, evaluate, judge, table
from tierline_cloud.text.made_up import make_shop


def test_the_same_seed_makes_the_same_shop() -> None:
    assert make_shop(50, 20, 3) == make_shop(50, 20, 3)
    assert make_shop(50, 20, 3) != make_shop(50, 20, 4)


def test_every_query_has_relevant_items_of_its_thing() -> None:
    shop = make_shop(300, 40, 1)
    assert all(each for each in shop.relevant)
    sneakers = ("sneakers", "running shoes", "trainers")
    asked = [
        [shop.texts[item - 1] for item in relevant]
        for query, relevant in zip(shop.queries, shop.relevant, strict=True)
        if any(name in query for name in sneakers)
    ]
    assert asked
    assert all(any(name in text for name in sneakers) for texts in asked for text in texts)


def test_a_judge_counts_places_as_the_definitions_say() -> None:
    lists = [np.arange(1, 11), np.arange(1, 11), np.arange(1, 11)]
    figures = judge(lists, [(1, 2), (3,), (40, 50)])
    np.testing.assert_allclose(figures["ndcg"], [1.0, 1 / math.log2(4), 0.0])
    np.testing.assert_allclose(figures["recall"], [1.0, 1.0, 0.0])
    np.testing.assert_allclose(figures["mrr"], [1.0, 1 / 3, 0.0])


def test_recall_asks_for_no_more_than_the_list_can_hold() -> None:
    figures = judge([np.arange(1, 11)], [tuple(range(1, 41))])
    assert figures["recall"][0] == figures["ndcg"][0] == pytest.approx(1.0)


def test_words_weigh_more_the_rarer_they_are() -> None:
    words = Words(["red cup", "red lamp", "red shoes, wool", "blue tent"])
    scores = words.scores("Red tent")
    assert scores.argmax() == 3
    assert scores[0] == scores[1] > scores[2] > 0
    assert not words.scores("unheard of").any()


def test_an_evaluation_prints_every_way_to_search(encoder: TextEncoder) -> None:
    document = evaluate(encoder, make_shop(60, 12, 0), 0)
    printed = table(document)
    assert all(name in printed for name in document["ways"])
    assert document["gain"]["low"] <= document["gain"]["mean"] <= document["gain"]["high"]
