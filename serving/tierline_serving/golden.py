"""Golden requests and the replies they must get: how they are stored, and the parity check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused, FrameError, TierlineError
from tierline.wire import (
    Limits,
    ScoreReply,
    ScoreRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

if TYPE_CHECKING:
    from tierline_serving.bundle import Bundle
    from tierline_serving.scorer import Scorer

MAX_GOLDEN: Final = 10_000  # a swap runs them all while the old generation serves
_LENGTH = Struct("<Q")  # before every frame
_LIMITS = Limits(max_frame_bytes=2**30)  # our own file, already hashed, not a stranger's request

Pair = tuple[ScoreRequest, ScoreReply]


def pack_requests(requests: Sequence[ScoreRequest]) -> bytes:
    """The bytes of a golden request file: each request's frame behind its length (u64)."""
    return b"".join(_with_length(b"".join(encode_request(request))) for request in requests)


def pack_replies(replies: Sequence[ScoreReply]) -> bytes:
    """The bytes of a golden reply file, in the order of the requests."""
    return b"".join(_with_length(b"".join(encode_reply(reply))) for reply in replies)


def read_pairs(requests: bytes, replies: bytes) -> list[Pair]:
    """Each golden request with its reply. Raises BundleRefused when the files are damaged."""
    try:
        asked = [decode_request(frame, _LIMITS) for frame in _frames(requests, "requests")]
        answered = [decode_reply(frame, _LIMITS) for frame in _frames(replies, "replies")]
    except FrameError as error:
        raise BundleRefused(f"golden: a frame is damaged: {error}") from error
    if len(asked) != len(answered) or not asked:
        raise BundleRefused(
            f"golden: {len(asked)} requests and {len(answered)} replies; "
            "expected as many of each, and at least one"
        )
    return list(zip(asked, answered, strict=True))


def check_golden(bundle: Bundle, scorer: Scorer) -> None:
    """Ask the scorer every golden request and compare. Raises BundleRefused naming the first
    request that differs and by how much; a bundle without golden requests passes.

    Scores may differ by ``tolerance`` times the larger of 1 and the reply's largest score; items
    of a recommendation may change places only where their scores are that close.
    """
    golden = bundle.manifest.golden
    if golden is None:
        return
    for number, (request, expected) in enumerate(bundle.golden()):
        where = f"{bundle.id}: golden request {number}"
        try:
            scorer.validate(request)
            (reply,) = scorer.score([request])
        except TierlineError as error:
            raise BundleRefused(f"{where}: {type(error).__name__}: {error}") from error
        difference = compare(reply, expected, golden.tolerance)
        if difference is not None:
            raise BundleRefused(f"{where}: {difference}")


def compare(reply: ScoreReply, expected: ScoreReply, tolerance: float) -> str | None:
    """How a reply differs from the golden one, in a sentence, or None. Pure."""
    if reply.model != expected.model:
        return f"answered for model {reply.model!r}, expected {expected.model!r}"
    got, want = reply.scores, expected.scores
    if got.shape != want.shape:
        return f"answered {got.size} scores, expected {want.size}"
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite]) or not np.isfinite(got[finite]).all():
        return "finite scores where −inf was expected, or the reverse"
    allowed = tolerance * max(1.0, float(np.abs(want[finite]).max(initial=0.0)))
    gaps = np.zeros(got.shape)
    gaps[finite] = np.abs(got[finite].astype(np.float64) - want[finite])
    if gaps.max(initial=0.0) > allowed:
        worst = int(gaps.argmax())
        return (
            f"score {worst} is {got[worst]:.7g}, expected {want[worst]:.7g}: "
            f"they differ by {gaps[worst]:.3g}, allowed is {allowed:.3g}"
        )
    return _compare_uncertainty(reply, expected, tolerance) or _compare_items(
        reply, expected, allowed
    )


def _compare_uncertainty(reply: ScoreReply, expected: ScoreReply, tolerance: float) -> str | None:
    got, want = reply.uncertainty, expected.uncertainty
    if got is None or want is None:
        return None if got is want else f"uncertainty is {got}, expected {want}"
    if not abs(got - want) <= tolerance:
        return f"uncertainty is {got:.7g}, expected {want:.7g}; allowed is {tolerance:.3g}"
    return None


def _compare_items(reply: ScoreReply, expected: ScoreReply, allowed: float) -> str | None:
    got, want = reply.items, expected.items
    if got is None or want is None:
        return None if got is want else "items only on one side: recommendation against scores"
    if got.shape != want.shape:
        return f"answered {got.size} items, expected {want.size}"
    real = got[got >= 0]
    if np.unique(real).size != real.size:
        return "an item is recommended twice"
    scores = {int(item): float(score) for item, score in zip(want, expected.scores, strict=True)}
    last = _last_finite(expected.scores)
    for place in np.flatnonzero(got != want):
        # Both sides may be off by ``allowed``, so true ties lie within twice that. An item the
        # golden list lacks can only have tied with the last one that made it.
        there = scores.get(int(got[place]), last)
        if -1 in (got[place], want[place]) or not (
            abs(float(expected.scores[place]) - there) <= 2 * allowed
        ):
            return f"place {place} is item {got[place]}, expected {want[place]}, and no tie"
    return None


def _last_finite(scores: NDArray[np.float32]) -> float:
    finite = scores[np.isfinite(scores)]
    return float(finite[-1]) if finite.size else float("nan")


def _with_length(frame: bytes) -> bytes:
    return _LENGTH.pack(len(frame)) + frame


def _frames(data: bytes, which: str) -> Iterator[bytes]:
    offset, count = 0, 0
    while offset < len(data):
        start = offset + _LENGTH.size
        if start > len(data) or count == MAX_GOLDEN:
            raise BundleRefused(f"golden: {which} end inside a length, or exceed {MAX_GOLDEN}")
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        if offset > len(data):
            raise BundleRefused(f"golden: {which} end inside frame {count}")
        count += 1
        yield data[start:offset]  # a copy: a frame's arrays are aligned relative to its start
