"""One call of a guest protocol: read, decode, score by the deadline, answer in its own words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tierline import CallError, FrameError
from tierline.wire import ScoreReply, ScoreRequest
from tierline.wire.errors import http_status, to_reply
from tierline.wire.headers import REQUEST_ID_HEADER, read_headers
from tierline_serving.admission import reason_of
from tierline_serving.answers import OK, failure
from tierline_serving.front.encodings import content_encoding, decoded, encoded
from tierline_serving.front.exchange import (
    DisconnectWatch,
    Receive,
    Refused,
    Response,
    Scope,
    Send,
    caller_of,
    no_room,
    read_body,
    respond,
    text_headers,
)
from tierline_serving.handlers import Handlers, Measured
from tierline_serving.said import said_by
from tierline_serving.settings import ServerSettings

Refusal = Callable[[Refused], Response]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as access control knows them: the id of a key, never the key."""

    key_id: str


class Arrived(NamedTuple):
    """A request that was read whole: its plain body, its headers, when its head came."""

    body: bytes
    headers: Mapping[str, str]
    at: float
    caller: str = ""  # whom a batch is shared with evenly


Work = Callable[[Arrived], Awaitable[tuple[Response, ScoreReply | None]]]


class Calls:
    """What guest protocols share. ``clock`` tells monotonic seconds."""

    def __init__(
        self,
        handlers: Handlers,
        settings: ServerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handlers = handlers
        self.settings = settings
        self._clock = clock

    async def score(
        self, request: ScoreRequest, arrived: Arrived, timeout: float | None = None
    ) -> ScoreReply:
        """Score by the deadline the headers name, at most ``timeout`` seconds after arrival.
        Raises CallError."""
        said = said_by(read_headers(arrived.headers, now=arrived.at))
        deadline = self.handlers.deadline(said, arrived.at, timeout)
        return await self.handlers.score(
            request, deadline, caller=arrived.caller, criticality=said.criticality
        )

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, work: Work, refusal: Refusal
    ) -> None:
        """Do the work for one measured request and send its response, or a refusal."""
        arrived_at = self._clock()
        request_id: str | None = None
        accepts = ""
        with self.handlers.measured(arrived_at) as outcome:
            try:
                headers = text_headers(scope["headers"])
                outcome.said = said = said_by(read_headers(headers, now=arrived_at))
                request_id = said.request_id
                accepts = headers.get("accept-encoding", "")
                self.handlers.foresee(said, 0, arrived_at)  # before the body is read
                arrived = await self.read(headers, receive, arrived_at, caller_of(scope))
                if arrived is None:
                    return  # the caller hung up while sending
                try:
                    response = await _until_left(receive, work(arrived), outcome)
                finally:
                    self.handlers.bodies.release(len(arrived.body))
                if response is None:
                    return
            except Exception as error:  # the shell's edge: told to the caller in his protocol
                refused = as_refused(error, request_id)
                outcome.code = refused.error.code
                outcome.reason = refused.error.code if error is refused else reason_of(error)
                response = refusal(refused)
                accepts = ""  # errors are short, and clients read them with less care
        await self.send(send, response, accepts, request_id)

    async def read(
        self, headers: Mapping[str, str], receive: Receive, arrived_at: float, caller: str = ""
    ) -> Arrived | None:
        """The whole plain body, or None when the caller left. Raises Refused.

        Who gets it releases it from ``handlers.bodies`` when it is answered.
        """
        bodies = self.handlers.bodies
        body = await read_body(headers, receive, self.settings, bodies)
        if body is None:
            return None
        encoding = content_encoding(headers)
        if encoding:
            # Inflating to the limit takes tens of milliseconds: not on the loop of all callers.
            limit = self.settings.max_body_bytes
            packed = len(body)
            try:
                body = await asyncio.to_thread(decoded, body, encoding, limit)
            except BaseException:
                bodies.release(packed)
                raise
            if not bodies.grow(packed, len(body)):
                raise no_room()
        return Arrived(body, headers, arrived_at, caller)

    async def send(
        self, send: Send, response: Response, accepts: str = "", request_id: str | None = None
    ) -> None:
        """Send a response, compressed as the caller accepts and worth it."""
        if accepts:
            response = encoded(response, accepts)
        headers = list(response.headers)
        if request_id is not None:
            headers.append((REQUEST_ID_HEADER.encode(), request_id.encode()))
        await respond(
            send,
            response.status,
            response.body,
            headers,
            asks_to_leave=self.handlers.asks_to_leave,
        )


def as_refused(error: Exception, request_id: str | None = None) -> Refused:
    """Any exception as what the caller may know of it; an unexpected one is logged by its id."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, CallError | FrameError):
        reply = to_reply(error)
    else:
        reply, _ = failure(error, request_id)
    return Refused(
        reply.code, reply.message, http_status(reply.code), retry_after=reply.retry_after
    )


async def _until_left(
    receive: Receive,
    work: Awaitable[tuple[Response, ScoreReply | None]],
    outcome: Measured,
) -> Response | None:
    """The work's response; None, and the work cancelled, when the caller hangs up first."""
    watch = DisconnectWatch(receive)
    try:
        response, reply = await work
    except asyncio.CancelledError:
        if not watch.caller_left:
            raise
        return None
    finally:
        watch.stop()
    outcome.code = OK
    outcome.queue = None if reply is None else reply.timings.get("queue")
    return response
