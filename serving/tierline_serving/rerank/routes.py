"""Answers `/rerank`, `/v1/rerank` and `/v2/rerank`, errors in the shape of who asks."""

from __future__ import annotations

import uuid
from typing import Final

from tierline.wire import ScoreReply
from tierline_serving.front.calls import Arrived, Calls
from tierline_serving.front.exchange import (
    JSON_TYPE,
    Receive,
    Refused,
    Response,
    Scope,
    Send,
    retry_header,
)
from tierline_serving.oip.requests import parse_document
from tierline_serving.oip.responses import json_response
from tierline_serving.rerank.ranking import chosen_model, ranked, score_request
from tierline_serving.rerank.shapes import (
    Shape,
    read_rerank,
    shape_of_path,
    write_error,
    write_rerank,
)
from tierline_serving.rerank.texts import text_request

RERANK_PATHS: Final = frozenset({"/rerank", "/v1/rerank", "/v2/rerank"})


class Rerank:
    """The three paths."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._handlers = calls.handlers

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: str = scope["path"]
        if scope["method"] != "POST":
            refused = Refused(
                "bad_request",
                f"{scope['method']} is not for here; use POST",
                405,
                headers=((b"allow", b"POST"),),
            )
            await self._calls.send(send, self.refusal(path, refused))
            return

        async def rerank(arrived: Arrived) -> tuple[Response, ScoreReply]:
            return await self._rerank(path, arrived)

        await self._calls.answer(
            scope, receive, send, rerank, lambda refused: self.refusal(path, refused)
        )

    def refusal(self, path: str, refused: Refused) -> Response:
        """An error in the shape the path tells."""
        shape: Shape | None = shape_of_path(path)
        document = write_error(shape, refused.error.message, refused.error.code)
        headers = (*refused.headers, *retry_header(refused.error.retry_after))
        body = json_response(document).body
        return Response(refused.status, body, ((b"content-type", JSON_TYPE), *headers))

    async def _rerank(self, path: str, arrived: Arrived) -> tuple[Response, ScoreReply]:
        request = read_rerank(path, parse_document(arrived.body))
        chosen = chosen_model(request, self._handlers.models())
        model, wanted = chosen.name, text_request if chosen.kind == "text" else score_request
        reply = await self._calls.score(wanted(request, model), arrived)
        results = ranked(request, reply.scores)
        answer = write_rerank(request, model, str(uuid.uuid4()), results)
        bundle = (b"x-tierline-bundle", reply.bundle.encode())
        response = json_response(answer)
        return Response(200, response.body, (*response.headers, bundle)), reply
