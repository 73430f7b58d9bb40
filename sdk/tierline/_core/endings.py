"""Is this reply an answer at all, what the caller gets for it, and which error ends a call."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from tierline import _exceptions as errors
from tierline._config import Mode
from tierline._core.control import Claim
from tierline._types import Answer, Attempt
from tierline.wire.messages import CANDIDATE_IDS, ScoreReply, ScoreRequest


def wrong_answer(request: ScoreRequest, reply: ScoreReply) -> errors.ModelFailed | None:
    """What is wrong with an answer that is no answer: its length, its numbers, its bundle."""
    scores = reply.scores
    if request.candidates is not None:
        expected = len(next(iter(request.candidates.values())))
        # One product sees every NaN and infinity; where it overflows, look at each score.
        finite = isfinite(scores.dot(scores)) or bool(np.isfinite(scores).all())
    else:
        expected = request.k or 0
        if reply.items is None or len(reply.items) != expected:
            return errors.ModelFailed(f"expected {expected} items, got {reply.items!r}")
        finite = len(scores) != expected or _is_ranking(reply.items, scores)
    if len(scores) != expected:
        return errors.ModelFailed(f"expected {expected} scores, got {len(scores)}")
    if not finite:
        return errors.ModelFailed("the scores are not all finite numbers")
    if not keeps_pin(request.version, reply.bundle):
        return errors.ModelFailed(f"pinned to {request.version}, answered by {reply.bundle}")
    return None


def keeps_pin(version: str | None, bundle: str) -> bool:
    """Whether a bundle is what a pin asks for: by its id, by the version before the ``@`` that the
    bundles of all tiers share, or by a label, which only the endpoint can tell."""
    if version is None or version == bundle:
        return True
    return bundle.partition("@")[0] == version or version.startswith("label:")


def _is_ranking(items: NDArray[np.int64], scores: NDArray[np.float32]) -> bool:
    """Whether each score is a number, or −inf where there was no item left to rank (id −1)."""
    absent = (items == -1) & np.isneginf(scores)
    return bool((np.isfinite(scores) | absent).all())


def answer_of(
    request: ScoreRequest,
    reply: ScoreReply,
    *,
    tier: str,
    quality: str,
    reason: str,
    attempts: tuple[Attempt, ...],
    elapsed: float,
    claim: Claim | None,
) -> Answer:
    """What the caller gets for this reply."""
    items = reply.items
    if items is None and request.candidates is not None:
        items = request.candidates.get(CANDIDATE_IDS)  # type: ignore[assignment]
    return Answer(
        reply.scores,
        items,
        tier=tier,
        bundle=reply.bundle,
        quality=quality,
        reason=reason,
        uncertainty=reply.uncertainty,
        attempts=attempts,
        elapsed=elapsed,
        claim=claim,
    )


def final_error(
    model: str, mode: Mode, error: errors.TierlineError | None, *, late: bool, span: float
) -> errors.CallError:
    """The one typed error of a call whose every rung failed, the last attempt with ``error``.
    ``span`` is the time the call had, in seconds; ``late`` says that it is used up."""
    if isinstance(error, errors.BadRequest | errors.NotPermitted | errors.ModelNotFound):
        return error
    if late:
        return errors.DeadlineExceeded(
            f"nobody answered {model!r} within {span * 1000:.0f} ms: "
            f"{error or 'no attempt was made'}"
        )
    if isinstance(error, errors.Overloaded):
        return error
    if error is None:
        return errors.Unavailable(
            f"no endpoint may be asked for {model!r} in mode {mode.value!r}: "
            "every breaker is open, or no such tier is configured"
        )
    return errors.Unavailable(f"every attempt failed, the last with: {error}")
