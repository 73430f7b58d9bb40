"""Questions to a tiny sequence bundle, and one answer to one of them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from tiny_bundles import ITEMS

from tierline.wire import ScoreReply, ScoreRequest
from tierline_edge.scorer import EdgeScorer

histories = st.lists(st.integers(1, ITEMS), max_size=10)
candidate_lists = st.lists(st.integers(1, ITEMS), min_size=1, max_size=30)
questions = st.tuples(histories, candidate_lists | st.integers(1, ITEMS + 5))


def ask(history: list[int], wanted: list[int] | int) -> ScoreRequest:
    """Candidates when a list is wanted, the best k when a number is."""
    query = {"history": np.array(history, np.int64)}
    if isinstance(wanted, int):
        return ScoreRequest(model="ranker", query=query, k=wanted)
    return ScoreRequest(model="ranker", query=query, candidates={"id": np.array(wanted, np.int64)})


def answer(scorer: EdgeScorer, request: ScoreRequest) -> ScoreReply:
    """What it says to this one request, checked as a node checks it."""
    scorer.validate(request)
    (reply,) = scorer.score([request])
    return reply
