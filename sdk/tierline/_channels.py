"""How an endpoint is asked: a channel answers one ScoreRequest with one ScoreReply, or raises.

An HTTP channel is the wire codec over a transport; an embedded channel is a scorer in this process.
Each kind has a twin for asyncio; only the waiting differs.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from tierline._config import ClientConfig, Criticality
from tierline._core.fallback import Prior
from tierline._core.sovereignty import View
from tierline._exceptions import (
    BadRequest,
    ConfigurationError,
    FrameError,
    MissingExtra,
    ModelNotFound,
    RemoteProtocolError,
)
from tierline._transports import open_async_transport, open_transport
from tierline._transports.base import (
    AsyncTransport,
    Buffer,
    Transport,
    WireRequest,
    WireResponse,
)
from tierline.deadline import DEADLINE_HEADER
from tierline.wire import (
    CONTENT_TYPE,
    ScoreReply,
    ScoreRequest,
    decode_error,
    decode_reply,
    encode_request,
    to_exception,
)
from tierline.wire.headers import (
    ATTEMPT_HEADER,
    AUTHORIZATION_HEADER,
    CONTENT_TYPE_HEADER,
    CRITICALITY_HEADER,
    QUEUE_HEADER,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
)

EXPECTED_WAIT = "expected_wait"  # among a reply's timings: seconds a newcomer would wait there
_USUAL: Final = Criticality.DEFAULT
_MILLISECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
EMBEDDED = "embedded:"
EMBEDDED_NEEDS = ("onnxruntime", "numba", "cryptography")  # what the extra brings and it imports
ModelDescription = dict[str, Any]  # the JSON of GET /v1/models/{name}, as the node wrote it


class Outgoing:
    """One call's request, encoded at most once however many attempts it takes."""

    __slots__ = ("_frame", "_views", "call_id", "criticality", "request", "traceparent")

    def __init__(
        self,
        request: ScoreRequest,
        call_id: str,
        traceparent: str | None,
        criticality: Criticality = Criticality.DEFAULT,
    ) -> None:
        self.request = request
        self.call_id = call_id
        self.traceparent = traceparent
        self.criticality = criticality
        self._frame: Sequence[Buffer] | None = None
        self._views: dict[int, Outgoing] = {}

    def seen_as(self, view: View) -> Outgoing:
        """What of it this view shows: the same bytes for every attempt at the view's tier."""
        known = self._views.get(id(view))
        if known is None:
            call_id, traceparent = view.headers(self.call_id, self.traceparent)
            known = Outgoing(view.request, call_id, traceparent, self.criticality)
            if known.sends_as(self):
                known = self  # nothing is kept from this tier: the frame is shared
            self._views[id(view)] = known
        return known

    def sends_as(self, other: Outgoing) -> bool:
        """Whether both write the same bytes."""
        headers = (self.call_id, self.traceparent) == (other.call_id, other.traceparent)
        return headers and self.request is other.request

    @property
    def frame(self) -> Sequence[Buffer]:
        if self._frame is None:
            try:
                self._frame = encode_request(self.request)
            except FrameError as wrong:  # ours to answer for, not the endpoint's
                raise BadRequest(f"the request cannot be sent: {wrong}") from wrong
        return self._frame


class Channel(Protocol):
    """Asks one endpoint. Raises TransportError, CallError or FrameError subclasses."""

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply: ...

    def describe(self, model: str, timeout: float) -> ModelDescription: ...

    def prior(self, model: str, timeout: float) -> Prior | None: ...

    def close(self) -> None: ...


class AsyncChannel(Protocol):
    """The twin for asyncio."""

    async def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply: ...

    async def describe(self, model: str, timeout: float) -> ModelDescription: ...

    async def prior(self, model: str, timeout: float) -> Prior | None: ...

    async def aclose(self) -> None: ...


class _Http:
    """What both HTTP channels share: requests out, answers in, no waiting."""

    def _score(self, outgoing: Outgoing, number: int, timeout: float) -> WireRequest:
        headers = [
            (DEADLINE_HEADER, f"{timeout * 1000.0:.3f}"),
            (ATTEMPT_HEADER, str(number)),
            (REQUEST_ID_HEADER, outgoing.call_id),
        ]
        if outgoing.traceparent is not None:
            headers.append((TRACEPARENT_HEADER, outgoing.traceparent))
        if outgoing.criticality is not _USUAL:
            headers.append((CRITICALITY_HEADER, outgoing.criticality.value))
        return WireRequest("POST", "/v1/score", headers, outgoing.frame)

    def _get(self, path: str) -> WireRequest:
        return WireRequest("GET", path)


def _read_answer(response: WireResponse, outgoing: Outgoing) -> ScoreReply:
    """The reply to this call's request. A node names the request it answers: what a broken proxy
    or connection brought from another call is not taken for ours."""
    answered = response.headers.get(REQUEST_ID_HEADER, outgoing.call_id)
    if answered != outgoing.call_id:
        raise RemoteProtocolError("the answer is another request's")
    return _read_reply(response)


def _read_reply(response: WireResponse) -> ScoreReply:
    if response.status == 200:
        try:
            reply = decode_reply(response.body)
        except FrameError as bad:
            raise RemoteProtocolError(f"the answer is not a frame: {bad}") from bad
        hint = response.headers.get(QUEUE_HEADER)
        return reply if hint is None else _with_hint(reply, hint)
    try:
        error = decode_error(response.body)
    except FrameError as bad:
        raise RemoteProtocolError(f"HTTP {response.status} without an error frame") from bad
    raise to_exception(error)


def _with_hint(reply: ScoreReply, hint: str) -> ScoreReply:
    """The reply, its timings with what a newcomer would wait there now; a hint that is no number
    of milliseconds is not believed."""
    if not _MILLISECONDS.fullmatch(hint):
        return reply
    timings = {**reply.timings, EXPECTED_WAIT: float(hint) / 1000.0}
    return ScoreReply(*reply[:6], timings)


def _read_description(response: WireResponse) -> ModelDescription:
    if response.status != 200:
        _read_reply(response)
    try:
        description = json.loads(bytes(response.body))
    except ValueError as bad:
        raise RemoteProtocolError(f"the model's description is not JSON: {bad}") from bad
    if not isinstance(description, dict):
        raise RemoteProtocolError("the model's description is not a JSON object")
    return description


def _read_prior(response: WireResponse) -> Prior | None:
    try:
        reply = _read_reply(response)
    except ModelNotFound:
        return None
    if reply.items is None or len(reply.items) == 0:
        return None
    scores = np.full(int(reply.items.max()) + 1, -np.inf, np.float32)
    scores[reply.items] = reply.scores
    return Prior(reply.bundle, scores)


class HttpChannel(_Http):
    """An endpoint over HTTP."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        request = self._score(outgoing, number, timeout)
        return _read_answer(self._transport.send(request, timeout=timeout), outgoing)

    def describe(self, model: str, timeout: float) -> ModelDescription:
        request = self._get(f"/v1/models/{model}")
        return _read_description(self._transport.send(request, timeout=timeout))

    def prior(self, model: str, timeout: float) -> Prior | None:
        request = self._get(f"/v1/models/{model}/prior")
        return _read_prior(self._transport.send(request, timeout=timeout))

    def close(self) -> None:
        self._transport.close()


class AsyncHttpChannel(_Http):
    """The twin for asyncio."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        request = self._score(outgoing, number, timeout)
        return _read_answer(await self._transport.send(request, timeout=timeout), outgoing)

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        request = self._get(f"/v1/models/{model}")
        return _read_description(await self._transport.send(request, timeout=timeout))

    async def prior(self, model: str, timeout: float) -> Prior | None:
        request = self._get(f"/v1/models/{model}/prior")
        return _read_prior(await self._transport.send(request, timeout=timeout))

    async def aclose(self) -> None:
        await self._transport.aclose()


class EmbeddedChannel:
    """A scorer in this process. Its answer cannot be interrupted: the timeout is not enforced."""

    def __init__(self, scorer: Any) -> None:  # Any: tierline_serving.scorer.Scorer lies above us
        self._scorer = scorer
        self._lock = threading.Lock()  # a scorer is asked by one thread at a time

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        request = outgoing.request
        if request.model != self._scorer.info.name:
            known = self._scorer.info.name
            raise ModelNotFound(f"this bundle holds {known!r}, not {request.model!r}")
        with self._lock:
            self._scorer.validate(request)
            reply: ScoreReply = self._scorer.score((request,))[0]
        return reply

    def describe(self, model: str, timeout: float) -> ModelDescription:
        info = self._scorer.info
        return {name: getattr(info, name) for name in type(info).__dataclass_fields__}

    def prior(self, model: str, timeout: float) -> Prior | None:
        scores = self._scorer.prior()
        return None if scores is None else Prior(self._scorer.info.bundle, scores)

    def close(self) -> None:
        self._scorer.close()


class AsyncEmbeddedChannel:
    """The twin: the scorer runs on the event loop itself, for scoring takes less time than a
    hand-over to a thread and back."""

    def __init__(self, scorer: Any) -> None:  # Any: see EmbeddedChannel
        self._inner = EmbeddedChannel(scorer)

    async def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        return self._inner.ask(outgoing, number, timeout)

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        return self._inner.describe(model, timeout)

    async def prior(self, model: str, timeout: float) -> Prior | None:
        return self._inner.prior(model, timeout)

    async def aclose(self) -> None:
        self._inner.close()


def open_channel(url: str, config: ClientConfig) -> Channel:
    if url.startswith(EMBEDDED):
        return EmbeddedChannel(_open_scorer(url, config))
    return HttpChannel(open_transport(url, kind=config.transport, headers=_standing(config)))


def open_async_channel(url: str, config: ClientConfig) -> AsyncChannel:
    if url.startswith(EMBEDDED):
        return AsyncEmbeddedChannel(_open_scorer(url, config))
    headers = _standing(config)
    return AsyncHttpChannel(open_async_transport(url, kind=config.transport, headers=headers))


def _standing(config: ClientConfig) -> list[tuple[str, str]]:
    """The headers every request of a client carries."""
    headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE)]
    if config.api_key is not None:
        headers.append((AUTHORIZATION_HEADER, f"Bearer {config.api_key}"))
    return headers


def _open_scorer(url: str, config: ClientConfig) -> Any:  # Any: see EmbeddedChannel
    # Imported where it is used: it brings the parsers of mail and archives, a sixth of the time
    # that `import tierline` would take.
    from importlib.metadata import entry_points

    for point in entry_points(group="tierline.embedded"):
        try:
            opener = point.load()
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] not in EMBEDDED_NEEDS:
                raise  # something of somebody else's is missing: an extra would not bring it
            raise MissingExtra("edge", f"an {EMBEDDED}PATH endpoint") from missing
        return opener(url.removeprefix(EMBEDDED), allow_unsigned=config.allow_unsigned)
    raise ConfigurationError("nothing installed opens embedded bundles", key="endpoints.url")
