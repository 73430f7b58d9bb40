"""The error table: complete, and the same in both directions."""

from __future__ import annotations

import pytest

from tierline import _exceptions
from tierline._exceptions import CallError, FrameError, ModelFailed, Overloaded, Unavailable
from tierline.wire import (
    ERROR_CODES,
    ErrorReply,
    decode_error,
    encode_error,
    http_status,
    to_exception,
    to_reply,
)

CALL_ERRORS = [
    kind
    for kind in vars(_exceptions).values()
    if isinstance(kind, type) and issubclass(kind, CallError) and kind is not CallError
]


@pytest.mark.parametrize("kind", CALL_ERRORS)
def test_every_call_error_travels_and_arrives_as_itself(kind: type[CallError]) -> None:
    came = to_exception(decode_error(b"".join(encode_error(to_reply(kind("why"))))))
    assert type(came) is kind
    assert str(came) == "why"


@pytest.mark.parametrize("row", ERROR_CODES, ids=lambda row: row.code)
def test_every_code_has_its_exception_and_status(row: object) -> None:
    came = to_exception(ErrorReply(code=row.code, message="why"))  # type: ignore[attr-defined]
    assert type(came) is row.exception  # type: ignore[attr-defined]
    assert http_status(row.code) == row.status  # type: ignore[attr-defined]


def test_codes_and_statuses_are_unique() -> None:
    assert len({row.code for row in ERROR_CODES}) == len(ERROR_CODES)
    assert len({row.status for row in ERROR_CODES}) == len(ERROR_CODES)


def test_each_exception_is_a_fresh_one() -> None:
    reply = ErrorReply(code="unavailable", message="why")
    assert to_exception(reply) is not to_exception(reply)


def test_overloaded_carries_when_to_come_back() -> None:
    came = to_exception(ErrorReply(code="overloaded", message="busy", retry_after=0.25))
    assert isinstance(came, Overloaded)
    assert came.retry_after == 0.25
    assert to_reply(came).retry_after == 0.25
    assert Overloaded("x").retry_after is None


def test_a_code_from_the_future_is_unavailable() -> None:
    came = to_exception(ErrorReply(code="melted", message="hot"))
    assert type(came) is Unavailable
    assert "melted" in str(came)


def test_a_subclass_travels_as_its_nearest_ancestor() -> None:
    class OutOfMemory(ModelFailed):
        pass

    assert to_reply(OutOfMemory("cuda")).code == "model_failed"


def test_a_bad_frame_is_a_bad_request() -> None:
    assert to_reply(FrameError("no magic")) == ErrorReply(code="bad_request", message="no magic")


def test_a_foreign_exceptions_message_stays_here() -> None:
    assert "hunter2" not in to_reply(KeyError("password=hunter2")).message


@pytest.mark.parametrize("message", ["", "x" * 10_000, "\ud800 lone", "ünï"])
def test_any_message_can_be_sent(message: str) -> None:
    assert decode_error(b"".join(encode_error(to_reply(Unavailable(message))))).message
