"""Messages to frames and back: a small msgpack header, then the tensors' raw bytes, never copied.

A frame is: b"TLF" and a version byte; the header's length (u32, little-endian); the header; zeros
up to a multiple of 16; then, in the header's order and each starting at a multiple of 16 (zeros
between), the tensors' little-endian C-order bytes; and nothing behind the last. The header is one
msgpack array; a tensor in it is ``[name, dtype code, *shape]``:

    request  ["q", model, version, k, [query tensors], [candidate tensors] or nil]
    reply    ["r", model, bundle, uncertainty, threshold, [timing, seconds, ...], [tensors]]
    error    ["e", code, message, retry_after]

Everything is checked against ``Limits`` before a tensor is built, and a tensor is a read-only view
of the frame. What fails a check is a FrameError and nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from struct import Struct
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from tierline._exceptions import FrameError
from tierline.wire._fields import (
    DEFAULT_LIMITS,
    Buffer,
    Limits,
    check_count,
    check_seconds,
    check_text,
    check_unit,
    finite,
)
from tierline.wire._tensors import ALIGNMENT, ZEROS, describe, read_tensors
from tierline.wire.messages import ErrorReply, ScoreReply, ScoreRequest, Tensors

__all__ = [
    "Limits",
    "decode_error",
    "decode_reply",
    "decode_request",
    "encode_error",
    "encode_reply",
    "encode_request",
]

MAGIC: Final = b"TLF\x01"

_PREAMBLE = Struct("<4sI")
_FLOAT32 = np.dtype("<f4")
_INT64 = np.dtype("<i8")

Header = list[Any]  # Any: what msgpack found, until each field is checked


def encode_request(request: ScoreRequest) -> list[Buffer]:
    """The frame of a request, as parts to send one after another; arrays are not copied.

    Raises FrameError for what no server would accept, e.g. a dtype that does not travel.
    """
    query, arrays = describe(request.query)
    candidates: list[list[str | int]] | None = None
    if request.candidates is not None:
        candidates, more = describe(request.candidates)
        arrays += more
    k = None if request.k is None else _integer(request.k)
    _check_request(request.model, request.version, k, request.candidates, DEFAULT_LIMITS)
    return _frame(["q", request.model, request.version, k, query, candidates], arrays)


def decode_request(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> ScoreRequest:
    """The request in a frame; its arrays are read-only views of ``data``. Raises FrameError."""
    view, header, start = _open(data, "q", 6, limits)
    _, model, version, k, query_specs, candidate_specs = header
    query, start = read_tensors(view, start, query_specs, limits)
    candidates: Tensors | None = None
    if candidate_specs is not None:
        candidates, start = read_tensors(view, start, candidate_specs, limits)
        if len(query) + len(candidates) > limits.max_tensors:
            raise FrameError(f"a frame carries at most {limits.max_tensors} tensors")
    _check_end(view, start)
    _check_request(model, version, k, candidates, limits)
    return ScoreRequest(model=model, query=query, candidates=candidates, k=k, version=version)


def encode_reply(reply: ScoreReply) -> list[Buffer]:
    """The frame of a reply, as parts; arrays are not copied. Raises FrameError when invalid."""
    tensors: dict[str, NDArray[np.generic]] = {"scores": reply.scores}
    if reply.items is not None:
        tensors["items"] = reply.items
    specs, arrays = describe(tensors)
    _check_ranking(tensors)
    timings: list[str | float] = []
    for name, seconds in reply.timings.items():
        timings += (name, _number(seconds))
    uncertainty = None if reply.uncertainty is None else _number(reply.uncertainty)
    threshold = None if reply.threshold is None else _number(reply.threshold)
    _check_reply(reply.model, reply.bundle, uncertainty, threshold, DEFAULT_LIMITS)
    _read_timings(timings, DEFAULT_LIMITS)
    header = ["r", reply.model, reply.bundle, uncertainty, threshold, timings, specs]
    return _frame(header, arrays)


def decode_reply(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> ScoreReply:
    """The reply in a frame; its arrays are read-only views of ``data``. Raises FrameError."""
    view, header, start = _open(data, "r", 7, limits)
    _, model, bundle, uncertainty, threshold, timings, specs = header
    tensors, start = read_tensors(view, start, specs, limits)
    _check_end(view, start)
    _check_ranking(tensors)
    _check_reply(model, bundle, uncertainty, threshold, limits)
    return ScoreReply(
        model=model,
        bundle=bundle,
        scores=tensors["scores"],  # type: ignore[arg-type]  # _check_ranking saw float32
        items=tensors.get("items"),  # type: ignore[arg-type]  # _check_ranking saw int64
        uncertainty=uncertainty,
        threshold=threshold,
        timings=_read_timings(timings, limits),
    )


def encode_error(error: ErrorReply) -> list[Buffer]:
    """The frame of an error. Raises FrameError when a field is beyond the limits."""
    retry_after = None if error.retry_after is None else _number(error.retry_after)
    _check_error(error.code, error.message, retry_after, DEFAULT_LIMITS)
    return _frame(["e", error.code, error.message, retry_after], ())


def decode_error(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> ErrorReply:
    """The error in a frame, its code known to ``wire.errors`` or not. Raises FrameError."""
    view, header, start = _open(data, "e", 4, limits)
    _check_end(view, start)
    _, code, message, retry_after = header
    _check_error(code, message, retry_after, limits)
    return ErrorReply(code=code, message=message, retry_after=retry_after)


def _frame(header: Header, arrays: Iterable[NDArray[np.generic]]) -> list[Buffer]:
    try:
        packed: bytes = msgpack.packb(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"a field cannot be written to a frame: {error}") from error
    offset = _PREAMBLE.size + len(packed)
    padding = -offset % ALIGNMENT
    parts: list[Buffer] = [_PREAMBLE.pack(MAGIC, len(packed)) + packed + ZEROS[:padding]]
    padding = 0  # the header's is written
    for array in arrays:
        if padding:
            parts.append(ZEROS[:padding])
        if array.size:  # a memoryview with a zero in its shape cannot be cast
            parts.append(array.data.cast("B"))
        padding = -array.nbytes % ALIGNMENT
    return parts


def _open(data: Buffer, kind: str, fields: int, limits: Limits) -> tuple[memoryview, Header, int]:
    """The frame's bytes, its checked-for-shape header and where its tensors start."""
    if type(data) is bytes:
        view = memoryview(data)
    else:
        try:
            view = memoryview(data).toreadonly().cast("B")
        except (TypeError, ValueError) as error:
            raise FrameError(f"a frame must be contiguous bytes: {error}") from error
    if len(view) > limits.max_frame_bytes:
        raise FrameError(f"a frame of {len(view)} bytes; at most {limits.max_frame_bytes} are read")
    if len(view) < _PREAMBLE.size:
        raise FrameError(f"a frame starts with {_PREAMBLE.size} bytes; {len(view)} came")
    magic, length = _PREAMBLE.unpack_from(view)
    if magic != MAGIC:
        raise FrameError(f"a frame starts with {MAGIC!r}, not {magic!r}")
    end = _PREAMBLE.size + length
    if length > limits.max_header_bytes or end > len(view):
        raise FrameError(f"a header of {length} bytes does not fit its frame or the limits")
    header = _unpack(view[_PREAMBLE.size : end], limits)
    if type(header) is not list or len(header) != fields or header[0] != kind:
        raise FrameError(f"the header is no array of {fields} fields that begins with {kind!r}")
    start = end + (-end % ALIGNMENT)
    if start > len(view) or (start != end and view[end:start] != ZEROS[: start - end]):
        raise FrameError("the header is not padded with zeros to a multiple of 16")
    return view, header, start


def _unpack(packed: memoryview, limits: Limits) -> Any:  # Any: see Header
    try:
        return msgpack.unpackb(
            packed,
            max_array_len=limits.max_array,
            max_map_len=0,
            max_str_len=limits.max_text,
            max_bin_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise FrameError(f"the header is no valid msgpack: {error or type(error)}") from error


def _check_end(view: memoryview, end: int) -> None:
    if end != len(view):
        raise FrameError(f"the frame has {len(view)} bytes; its header accounts for {end}")


def _check_request(
    model: object, version: object, k: object, candidates: Tensors | None, limits: Limits
) -> None:
    check_text("model", model, limits.max_name)
    if version is not None:
        check_text("version", version, limits.max_name)
    if candidates is None:
        check_count("k", k, limits.max_k)
        return
    if k is not None:
        raise FrameError("k asks for the best of the whole catalogue: leave out the candidates")
    if not candidates:
        raise FrameError("candidates need at least one tensor, e.g. 'id'")
    lengths = {array.shape[0] if array.ndim else None for array in candidates.values()}
    if len(lengths) != 1 or None in lengths:
        raise FrameError("candidates need the same first axis in every tensor: one row each")


def _check_ranking(tensors: Tensors) -> None:
    scores, items = tensors.get("scores"), tensors.get("items")
    if scores is None or len(tensors) != 1 + (items is not None):
        raise FrameError("a reply carries 'scores', perhaps 'items', and no other tensor")
    if scores.dtype != _FLOAT32 or scores.ndim != 1:
        raise FrameError(f"scores are float32[n], not {scores.dtype}{list(scores.shape)}")
    if items is not None and (items.dtype != _INT64 or items.shape != scores.shape):
        raise FrameError(
            f"items are int64[{scores.size}] as the scores, not {items.dtype}{list(items.shape)}"
        )


def _check_reply(
    model: object, bundle: object, uncertainty: object, threshold: object, limits: Limits
) -> None:
    check_text("model", model, limits.max_name)
    check_text("bundle", bundle, limits.max_name)
    if uncertainty is not None:
        check_unit("uncertainty", uncertainty)
    if threshold is not None:
        finite("threshold", threshold)


def _check_error(code: object, message: object, retry_after: object, limits: Limits) -> None:
    check_text("code", code, limits.max_name)
    check_text("message", message, limits.max_message)
    if retry_after is not None:
        check_seconds("retry_after", retry_after)


def _read_timings(pairs: Any, limits: Limits) -> dict[str, float]:  # Any: see Header
    if type(pairs) is not list or len(pairs) % 2 or len(pairs) > 2 * limits.max_timings:
        raise FrameError(f"timings are at most {limits.max_timings} pairs of name and seconds")
    timings: dict[str, float] = {}
    if not pairs:
        return timings
    for name, seconds in zip(pairs[::2], pairs[1::2], strict=True):
        check_text("a timing's name", name, limits.max_name)
        timings[name] = check_seconds(name, seconds)
    if 2 * len(timings) != len(pairs):
        raise FrameError("a timing is named twice")
    return timings


def _number(value: float) -> float:
    try:
        return float(value)  # also NumPy's scalars, which msgpack does not take
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"expected a number, got {value!r}") from error


def _integer(value: int) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise FrameError(f"k must be an integer, got {value!r}") from error
