"""The wire: messages, frames, errors and header names. Shared by the SDK and every server."""

from tierline.wire.messages import CANDIDATE_IDS, ErrorReply, ScoreReply, ScoreRequest, Tensors

__all__ = ["CANDIDATE_IDS", "ErrorReply", "ScoreReply", "ScoreRequest", "Tensors"]
