"""A request larger than a batch, in parts, and its answer joined again.

Parts are always of the same size for a request of so many rows: what the queue holds besides must
not change an answer, not even the last bit of its uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.batching.pending import Outcome, Pending


def split(request: ScoreRequest, rows: int, most: int) -> list[ScoreRequest]:
    """Requests of at most ``most`` rows each, in order; the request alone when it cannot be split,
    or need not be."""
    candidates = request.candidates
    if rows <= most or candidates is None or any(len(a) != rows for a in candidates.values()):
        return [request]
    return [
        request._replace(
            candidates={name: array[low : low + most] for name, array in candidates.items()}
        )
        for low in range(0, rows, most)
    ]


def join(replies: Sequence[ScoreReply]) -> ScoreReply:
    """The answer to the whole request; its uncertainty is the mean of the parts' by rows."""
    first = replies[0]
    doubts = [reply.uncertainty for reply in replies]
    counts = [len(reply.scores) for reply in replies]
    doubt = doubts[0]
    if any(each != doubt for each in doubts):
        pairs = [
            (each, rows) for each, rows in zip(doubts, counts, strict=True) if each is not None
        ]
        doubt = sum(each * rows for each, rows in pairs) / sum(rows for _, rows in pairs)
    scores = np.concatenate([reply.scores for reply in replies])
    return first._replace(scores=scores, uncertainty=doubt)


def into_parts(
    pending: Pending,
    rows_of: Callable[[ScoreRequest], int],
    most: int,
    told: Callable[[Pending, Outcome], None],
) -> None:
    """Give a pending request its parts; ``told`` gets the outcome of the whole, or an error of any
    part, perhaps more than one."""
    joined = Joined(pending, told)
    requests = split(pending.request, pending.rows, most)
    deadline_at, since = pending.deadline_at, pending.submitted_at
    pending.parts = tuple(
        Pending(part, rows_of(part), deadline_at, since, joined.ended) for part in requests
    )
    joined.expects(len(requests))


class Joined:
    """Collects the outcomes of one request's parts; ``told`` gets the whole, or the first error."""

    __slots__ = ("_left", "_replies", "_told", "whole")

    def __init__(self, whole: Pending, told: Callable[[Pending, Outcome], None]) -> None:
        self.whole = whole
        self._told = told
        self._left = 0
        self._replies: dict[int, ScoreReply] = {}

    def expects(self, parts: int) -> None:
        """How many parts there are."""
        self._left = parts

    def ended(self, part: Pending, outcome: Outcome) -> None:
        """One part is through."""
        whole = self.whole
        if not isinstance(outcome, ScoreReply):
            self._told(whole, outcome)
            return
        self._left -= 1
        self._replies[id(part)] = outcome
        if not self._left:
            whole.queue = min(each.queue for each in whole.parts)
            whole.compute = sum(each.compute for each in whole.parts)
            self._told(whole, join([self._replies[id(each)] for each in whole.parts]))
