"""The one table of error codes: what travels, which exception it is, which HTTP status it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tierline._exceptions import (
    BadRequest,
    CallError,
    DeadlineExceeded,
    FrameError,
    ModelFailed,
    ModelNotFound,
    NotPermitted,
    Overloaded,
    Unavailable,
)
from tierline.wire._fields import DEFAULT_LIMITS
from tierline.wire.messages import ErrorReply


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row: the code on the wire, the exception at the client, the status of the answer."""

    code: str
    exception: type[CallError]
    status: int


# Where an exception has two rows, the first is the one it is sent as.
ERROR_CODES: Final = (
    ErrorCode("bad_request", BadRequest, 400),
    ErrorCode("not_permitted", NotPermitted, 403),
    ErrorCode("unauthenticated", NotPermitted, 401),
    ErrorCode("model_not_found", ModelNotFound, 404),
    ErrorCode("too_large", BadRequest, 413),
    ErrorCode("overloaded", Overloaded, 429),
    ErrorCode("model_failed", ModelFailed, 500),
    ErrorCode("unavailable", Unavailable, 503),
    ErrorCode("deadline_exceeded", DeadlineExceeded, 504),
)
_BY_CODE = {row.code: row for row in ERROR_CODES}
_BY_EXCEPTION = {row.exception: row for row in reversed(ERROR_CODES)}


def to_exception(error: ErrorReply) -> CallError:
    """A fresh exception for an error that came over the wire.

    A code this version does not know is Unavailable: that endpoint cannot help, another may.
    """
    row = _BY_CODE.get(error.code)
    if row is None:
        return Unavailable(f"unknown error code {error.code!r}: {error.message}")
    exception = row.exception(error.message)
    if isinstance(exception, Overloaded):
        exception.retry_after = error.retry_after
    return exception


def to_reply(exception: BaseException) -> ErrorReply:
    """What to tell the client about an exception.

    Only Tierline's own sentences travel; of any other exception only its type does, so that no
    secret inside a message leaves the process.
    """
    if isinstance(exception, FrameError):
        return ErrorReply(code="bad_request", message=_sendable(str(exception)))
    for kind in type(exception).__mro__:
        if row := _BY_EXCEPTION.get(kind):
            retry_after = exception.retry_after if isinstance(exception, Overloaded) else None
            message = _sendable(str(exception)) or row.code
            return ErrorReply(code=row.code, message=message, retry_after=retry_after)
    return ErrorReply(code="model_failed", message=f"internal error: {type(exception).__name__}")


def http_status(code: str) -> int:
    """The HTTP status of an error code. Raises KeyError for one not in the table."""
    return _BY_CODE[code].status


def _sendable(message: str) -> str:
    return message[: DEFAULT_LIMITS.max_message].encode("utf-8", "replace").decode()
