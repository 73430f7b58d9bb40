"""What a simulated model answers: a pure function of bundle, query and candidates.

So any answer can be checked: it belongs to this request, and to the bundle it names, or to nobody.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tierline.certificate import ESCALATE_ALL, KEEP_ALL, Certificate, CurvePoint, Subject
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest, Tensors

THRESHOLD = 0.5  # what every simulated bundle was calibrated with
CATALOGUE = 1000  # items
MODEL = "ranker"
CERTIFIED = 3  # the length of the lists that certificates are about
_ZEROS = "0" * 64


def certificate_of(bundle: str) -> Certificate:
    """What a simulated edge bundle carries: certified against the cloud's bundle of its own name,
    whose lists are the same."""
    digest = bundle.rpartition("@")[2]
    subject = Subject(
        model=digest.ljust(64, "0"),
        catalogue=_ZEROS,
        quantization=_ZEROS,
        cloud=digest.ljust(64, "0"),
    )
    return Certificate(
        loss=f"L_agree@{CERTIFIED}",
        method="wsr",
        slot="test",
        created="2026-11-21T07:00:00Z",
        alpha=0.05,
        delta=0.05,
        n=4000,
        threshold=THRESHOLD,
        curve=(
            CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
            CurvePoint(threshold=THRESHOLD, bound=0.05, escalation=0.2),
            CurvePoint(threshold=KEEP_ALL, bound=0.2, escalation=0.0),
        ),
        subject=subject,
    )


def true_reply(bundle: str, request: ScoreRequest, uncertainty: float | None) -> ScoreReply:
    """What a healthy node serving ``bundle`` answers."""
    items: NDArray[np.int64] | None = None
    if request.candidates is None:
        items = _ranking(bundle, request.query, request.k or 0)
        scores = -np.arange(len(items), dtype=np.float32)
    else:
        scores = true_scores(bundle, request.query, request.candidates)
    return ScoreReply(
        model=request.model,
        bundle=bundle,
        scores=scores,
        items=items,
        uncertainty=uncertainty,
        threshold=None if uncertainty is None else THRESHOLD,
    )


def true_scores(bundle: str, query: Tensors, candidates: Tensors) -> NDArray[np.float32]:
    """float32[n] in [0, 1): depends on every id of the query and of the candidates."""
    ids = candidates[CANDIDATE_IDS].astype(np.int64, copy=False)
    mixed = (ids * 40503 + _salt(bundle, query)) % 65521
    return (mixed / 65521).astype(np.float32)


def is_true(bundle: str, request: ScoreRequest, scores: object, items: object) -> bool:
    """Whether this is what the bundle answers to this request."""
    if request.candidates is not None:
        return bool(np.array_equal(true_scores(bundle, request.query, request.candidates), scores))  # type: ignore[arg-type]  # compared, whatever it is
    return bool(np.array_equal(_ranking(bundle, request.query, request.k or 0), items))  # type: ignore[arg-type]  # as above


def prior_scores() -> NDArray[np.float32]:
    """The popularity prior of every simulated bundle: float32[CATALOGUE + 1], entry 0 is −inf."""
    scores = 1.0 / np.arange(1, CATALOGUE + 2, dtype=np.float32)
    scores[0] = -np.inf
    return scores


def _ranking(bundle: str, query: Tensors, k: int) -> NDArray[np.int64]:
    first = _salt(bundle, query) % CATALOGUE
    return 1 + (first + np.arange(k, dtype=np.int64)) % CATALOGUE


def _salt(bundle: str, query: Tensors) -> int:
    history = query.get("history")
    asked = 0 if history is None else int(np.dot(history, np.arange(1, len(history) + 1)))
    return crc32(bundle.encode()) % 65521 + asked * 7919
