"""Finds which requests of a failed batch are to blame, so that only they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tierline import ModelFailed
from tierline.wire import ScoreReply, ScoreRequest

Outcome = ScoreReply | Exception | None  # None: nobody wanted it any more, so it was not computed
Score = Callable[[Sequence[ScoreRequest]], Sequence[ScoreReply]]


class Isolated:
    """One outcome per request, in order, and how many times the scorer ran to get them."""

    __slots__ = ("outcomes", "runs")

    def __init__(self, outcomes: Sequence[Outcome], runs: int) -> None:
        self.outcomes = outcomes
        self.runs = runs


def score_each(
    score: Score, requests: Sequence[ScoreRequest], is_wanted: Callable[[int], bool]
) -> Isolated:
    """Score the requests together; when that raises, halve and try again until only offenders fail.

    ``is_wanted(i)`` is asked before each further run, so that callers who gave up meanwhile cost
    nothing. The runs are bounded: a model that fails for everybody must not cost a run for each.
    """
    whole = _attempt(score, requests)
    if not isinstance(whole, Exception):
        return Isolated(whole, 1)
    if len(requests) == 1:
        return Isolated((whole,), 1)
    return _taken_apart(score, requests, is_wanted)


def _taken_apart(
    score: Score, requests: Sequence[ScoreRequest], is_wanted: Callable[[int], bool]
) -> Isolated:
    """The outcomes of two or more requests that failed together."""
    outcomes: list[Outcome] = [None] * len(requests)
    allowed = run_limit(len(requests))
    middle = len(requests) // 2
    groups = [list(range(middle, len(requests))), list(range(middle))]
    runs = 1
    while groups:
        group = [index for index in groups.pop() if is_wanted(index)]
        if not group:
            continue
        runs += 1
        answered = _attempt(score, [requests[index] for index in group])
        if not isinstance(answered, Exception):
            for index, reply in zip(group, answered, strict=True):
                outcomes[index] = reply
        elif len(group) == 1 or runs + len(groups) + 2 > allowed:
            for index in group:
                outcomes[index] = answered
        else:
            middle = len(group) // 2
            groups += [group[middle:], group[:middle]]
    return Isolated(tuple(outcomes), runs)


def run_limit(requests: int) -> int:
    """Runs allowed for a batch: enough to isolate two offenders, whatever their places."""
    # One offender costs 2·log2(n) further runs; ⌈log2 n⌉ is the bit length of n − 1.
    return 1 + 4 * (requests - 1).bit_length()


def _attempt(score: Score, requests: Sequence[ScoreRequest]) -> Sequence[ScoreReply] | Exception:
    try:
        replies = score(requests)
    except Exception as error:  # handed to the callers it belongs to, one by one
        return error
    if len(replies) != len(requests):
        return ModelFailed(
            f"the scorer answered {len(replies)} replies to {len(requests)} requests; "
            "it must answer each request, in order"
        )
    return replies
