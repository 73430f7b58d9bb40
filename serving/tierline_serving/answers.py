"""What a native call is answered: an outcome's code and the parts of its frame."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from tierline import CallError, FrameError
from tierline.wire import ErrorReply, ScoreReply
from tierline.wire.errors import to_reply
from tierline.wire.frames import encode_error
from tierline_serving.admission import Shed, reason_of

OK, OVERLOADED = "ok", "overloaded"
Buffer = bytes | bytearray | memoryview

_log = logging.getLogger("tierline.serving")


class Answer(NamedTuple):
    """What to send back: the outcome's code ("ok" or an error code) and the frame's parts."""

    code: str
    frame: Sequence[Buffer]
    retry_after: float | None = None
    request_id: str | None = None
    reply: ScoreReply | None = None  # the answer itself; None for an error
    expected_wait: float = 0.0  # seconds a request arriving now would wait: the load hint
    reason: str | None = None  # why it was not answered, in one word


def error_answer(error: ErrorReply, request_id: str | None = None) -> Answer:
    """An error as an answer."""
    return Answer(error.code, encode_error(error), error.retry_after, request_id)


def refusal(error: Exception, request_id: str | None) -> Answer:
    """Any exception as an answer; an unexpected one is logged, and told by its id."""
    reason = reason_of(error)
    if not isinstance(error, CallError | FrameError):
        reply, request_id = failure(error, request_id)
        return Answer(reply.code, encode_error(reply), None, request_id, None, 0.0, reason)
    reply = to_reply(error)
    wait = error.queue if isinstance(error, Shed) else 0.0
    frame, again = encode_error(reply), reply.retry_after
    return Answer(reply.code, frame, again, request_id, None, wait, reason)


def shed(error: Shed, request_id: str | None) -> Answer:
    """``refusal`` of what is shed, its frame built once for each millisecond after which to ask
    again: a node that is asked too much answers most of its calls so."""
    again = math.ceil((error.retry_after or 0.0) * 1e3) / 1e3
    frame = _shed_frame(error.args[0], again)
    return Answer(OVERLOADED, frame, again, request_id, None, error.queue, error.reason)


def failure(error: Exception, request_id: str | None) -> tuple[ErrorReply, str]:
    """Log an unexpected exception; the caller learns an id to ask about, and nothing else."""
    known_id = request_id or uuid.uuid4().hex
    _log.error("request failed", exc_info=error, extra={"request_id": known_id})
    message = f"the model failed on this request; the server's log knows it as {known_id}"
    return ErrorReply(code="model_failed", message=message), known_id


def internal_error(error: Exception, request_id: str | None) -> Answer:
    """An unexpected exception as an answer, logged."""
    return error_answer(*failure(error, request_id))


@lru_cache(4096)
def _shed_frame(message: str, again: float) -> tuple[bytes]:
    reply = ErrorReply(code=OVERLOADED, message=message, retry_after=again)
    return (b"".join(encode_error(reply)),)
