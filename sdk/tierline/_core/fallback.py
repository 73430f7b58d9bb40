"""What to answer when nobody can: the last good answer for this key, then the popularity prior."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tierline.wire.messages import CANDIDATE_IDS, ScoreReply, ScoreRequest

REMEMBERED = 10_000  # keys; about 10 MB of answers of a hundred items each


class Prior(NamedTuple):
    """A bundle's popularity prior: float32[n_items + 1], one score an item; entry 0 is −inf."""

    bundle: str
    scores: NDArray[np.float32]


class LastGood:
    """The last good answer of each (model, key), the least lately used forgotten first.

    Kept are answers about items: recommendations, and scores of candidates given as ids.
    """

    __slots__ = ("_answers", "_capacity")

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[tuple[str, str, bool], ScoreReply] = OrderedDict()

    def remember(self, key: str, request: ScoreRequest, reply: ScoreReply) -> None:
        items = reply.items
        if request.candidates is not None:
            items = request.candidates.get(CANDIDATE_IDS)  # type: ignore[assignment]
        if items is None:
            return
        place = (request.model, key, request.candidates is None)
        self._answers[place] = ScoreReply(
            model=reply.model, bundle=reply.bundle, scores=reply.scores, items=items
        )
        self._answers.move_to_end(place)
        if len(self._answers) > self._capacity:
            self._answers.popitem(last=False)

    def answer(self, key: str, request: ScoreRequest) -> ScoreReply | None:
        """The remembered answer, if it answers this request whole: every candidate, or ``k``."""
        kept = self._answers.get((request.model, key, request.candidates is None))
        if kept is None:
            return None
        if request.k is not None:
            return _recommendation(kept, request.k)
        return _rescored(kept, request)


def _recommendation(kept: ScoreReply, k: int) -> ScoreReply | None:
    if kept.items is None or len(kept.items) < k:
        return None
    return ScoreReply(
        model=kept.model, bundle=kept.bundle, scores=kept.scores[:k], items=kept.items[:k]
    )


def _rescored(kept: ScoreReply, request: ScoreRequest) -> ScoreReply | None:
    known = kept.items
    wanted = (request.candidates or {}).get(CANDIDATE_IDS)
    if known is None or wanted is None or len(known) == 0:
        return None
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
    found = order[place]
    if not np.array_equal(known[found], wanted):
        return None
    return ScoreReply(model=kept.model, bundle=kept.bundle, scores=kept.scores[found])


def prior_reply(prior: Prior, request: ScoreRequest) -> ScoreReply | None:
    """The popularity prior's answer, or None when it does not cover the request's candidates."""
    if request.k is not None:
        ranked = np.argsort(-prior.scores, kind="stable")
        history = request.query.get("history")
        if history is not None:
            ranked = ranked[~np.isin(ranked, history)]
        best = ranked[: request.k]
        best = best[np.isfinite(prior.scores[best])]
        items = np.full(request.k, -1, np.int64)
        scores = np.full(request.k, -np.inf, np.float32)
        items[: len(best)] = best
        scores[: len(best)] = prior.scores[best]
        return ScoreReply(model=request.model, bundle=prior.bundle, scores=scores, items=items)
    ids = (request.candidates or {}).get(CANDIDATE_IDS)
    if ids is None or ids.size == 0 or ids.min() < 1 or ids.max() >= len(prior.scores):
        return None
    scores = prior.scores[ids]
    return ScoreReply(model=request.model, bundle=prior.bundle, scores=scores)
