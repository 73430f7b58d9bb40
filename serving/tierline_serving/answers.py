"""What a native call is answered: an outcome's code and the parts of its frame."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from functools import lru_cache

from tierline import CallError, FrameError
from tierline.wire import ErrorReply
from tierline.wire.errors import to_reply
from tierline.wire.frames import encode_error
from tierline_serving.admission import Shed, reason_of

OK, OVERLOADED = "ok", "overloaded"
Buffer = bytes | bytearray | memoryview

_log = logging.getLogger("tierline.serving")


class Answer:
    """What to send back: the outcome's code ("ok" or an error code) and the frame's parts.

    ``expected_wait`` is the load hint, the seconds a request arriving now would wait; ``reason``
    says in one word why it was not answered. Where it was, ``bundle`` names who answered, and
    ``queue`` and ``compute`` are its seconds there.
    """

    __slots__ = (
        "bundle",
        "code",
        "compute",
        "expected_wait",
        "frame",
        "queue",
        "reason",
        "request_id",
        "retry_after",
    )

    def __init__(
        self,
        code: str,
        frame: Sequence[Buffer],
        retry_after: float | None = None,
        request_id: str | None = None,
        expected_wait: float = 0.0,
        reason: str | None = None,
    ) -> None:
        self.code = code
        self.frame = frame
        self.retry_after = retry_after
        self.request_id = request_id
        self.expected_wait = expected_wait
        self.reason = reason
        self.bundle: str | None = None
        self.queue = self.compute = 0.0


def scored(
    frame: Sequence[Buffer],
    request_id: str | None,
    expected_wait: float,
    bundle: str,
    queue: float,
    compute: float,
) -> Answer:
    """The answer that carries scores."""
    answer = Answer(OK, frame, None, request_id, expected_wait)
    answer.bundle, answer.queue, answer.compute = bundle, queue, compute
    return answer


def error_answer(error: ErrorReply, request_id: str | None = None) -> Answer:
    """An error as an answer."""
    return Answer(error.code, encode_error(error), error.retry_after, request_id)


def refusal(error: Exception, request_id: str | None) -> Answer:
    """Any exception as an answer; an unexpected one is logged, and told by its id."""
    reason = reason_of(error)
    if not isinstance(error, CallError | FrameError):
        reply, request_id = failure(error, request_id)
        return Answer(reply.code, encode_error(reply), None, request_id, 0.0, reason)
    reply = to_reply(error)
    wait = error.queue if isinstance(error, Shed) else 0.0
    frame, again = encode_error(reply), reply.retry_after
    return Answer(reply.code, frame, again, request_id, wait, reason)


def shed(error: Shed, request_id: str | None) -> Answer:
    """``refusal`` of what is shed, its frame built once for each millisecond after which to ask
    again: a node that is asked too much answers most of its calls so."""
    again = math.ceil((error.retry_after or 0.0) * 1e3) / 1e3
    frame = _shed_frame(error.args[0], again)
    return Answer(OVERLOADED, frame, again, request_id, error.queue, error.reason)


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
