"""The wire: messages, frames, errors and header names. Shared by the SDK and every server."""

from tierline.wire._fields import Limits
from tierline.wire.errors import ERROR_CODES, ErrorCode, http_status, to_exception, to_reply
from tierline.wire.frames import (
    decode_error,
    decode_reply,
    decode_request,
    encode_error,
    encode_reply,
    encode_request,
)
from tierline.wire.headers import CONTENT_TYPE, CallHeaders, read_headers
from tierline.wire.messages import CANDIDATE_IDS, ErrorReply, ScoreReply, ScoreRequest, Tensors

__all__ = [
    "CANDIDATE_IDS",
    "CONTENT_TYPE",
    "ERROR_CODES",
    "CallHeaders",
    "ErrorCode",
    "ErrorReply",
    "Limits",
    "ScoreReply",
    "ScoreRequest",
    "Tensors",
    "decode_error",
    "decode_reply",
    "decode_request",
    "encode_error",
    "encode_reply",
    "encode_request",
    "http_status",
    "read_headers",
    "to_exception",
    "to_reply",
]
