"""Answers every operation of the Open Inference Protocol; errors are JSON ``{"error": …}``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tierline import BadRequest, CallError, Unavailable
from tierline.wire import Limits, ScoreReply
from tierline_serving.access.audit import AuditBroken, AuditLog
from tierline_serving.front.calls import Arrived, Caller, Calls, as_refused
from tierline_serving.front.exchange import (
    JSON_TYPE,
    Receive,
    Refused,
    Response,
    Scope,
    Send,
    raw_path,
    retry_header,
    text_headers,
)
from tierline_serving.oip.documents import (
    index_document,
    model_config,
    model_document,
    server_document,
    statistics_document,
)
from tierline_serving.oip.paths import Operation, Target, target_of
from tierline_serving.oip.requests import HEADER_LENGTH, parse_document, parse_infer
from tierline_serving.oip.responses import infer_response, json_response
from tierline_serving.oip.signatures import Signature
from tierline_serving.repository import Repository
from tierline_serving.scorer import ModelInfo
from tierline_serving.statistics import Statistics

_log = logging.getLogger(__name__)

Change = Callable[[Mapping[str, str]], Awaitable[str]]  # as Repository.change


class OpenInference:
    """The routes under ``/v2``."""

    def __init__(
        self,
        calls: Calls,
        *,
        repository: Repository | None = None,
        change: Change | None = None,
        statistics: Statistics | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._calls = calls
        self._handlers = calls.handlers
        self._repository = repository
        self._change_models = change or (None if repository is None else repository.change)
        self._statistics = statistics or Statistics()
        self._audit = audit
        self._limits = Limits(max_frame_bytes=calls.settings.max_body_bytes)
        self._signatures: dict[tuple[str, str], tuple[ModelInfo, Signature]] = {}

    async def handle(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller | None
    ) -> None:
        """Answer one request."""
        target = target_of(raw_path(scope))
        if target is None:
            refused = Refused("bad_request", f"there is nothing at {scope['path']!r}", 404)
            await self._calls.send(send, self.refusal(refused))
        elif target.operation.verb not in ("", scope["method"]):
            verb = target.operation.verb
            allow = ((b"allow", verb.encode()),)
            message = f"{scope['method']} is not for here; use {verb}"
            refused = Refused("bad_request", message, 405, headers=allow)
            await self._calls.send(send, self.refusal(refused))
        elif target.operation is Operation.INFER:

            async def infer(arrived: Arrived) -> tuple[Response, ScoreReply | None]:
                return await self._infer(target, arrived)

            await self._calls.answer(scope, receive, send, infer, self.refusal)
        else:
            await self._tell(scope, receive, send, target, caller)

    def refusal(self, refused: Refused) -> Response:
        """An error in the protocol's form."""
        headers = (*refused.headers, *retry_header(refused.error.retry_after))
        body = json_response({"error": refused.error.message}).body
        return Response(refused.status, body, ((b"content-type", JSON_TYPE), *headers))

    # Inference

    async def _infer(self, target: Target, arrived: Arrived) -> tuple[Response, ScoreReply]:
        info, signature = self._model(target)
        length = arrived.headers.get(HEADER_LENGTH)
        request = parse_infer(arrived.body, length, signature.inputs, self._limits)
        signature.check_outputs(request)
        version = None if target.version is None else info.bundle
        reply = await self._calls.score(
            signature.score_request(target.model, version, request), arrived, request.timeout
        )
        return infer_response(request, reply, signature.answered(reply)), reply

    def _model(self, target: Target) -> tuple[ModelInfo, Signature]:
        info = self._handlers.model(target.model, target.version)
        known = self._signatures.get((info.name, info.bundle))
        if known is None or known[0] is not info:
            if len(self._signatures) >= _MOST_SIGNATURES:
                self._signatures.clear()  # those of bundles long gone
            known = self._signatures[info.name, info.bundle] = (info, Signature.of(info))
        return known

    # Everything else

    async def _tell(
        self, scope: Scope, receive: Receive, send: Send, target: Target, caller: Caller | None
    ) -> None:
        try:
            headers = text_headers(scope["headers"])
            if target.operation.verb == "POST":
                arrived = await self._calls.read(headers, receive, 0.0)
                if arrived is None:
                    return  # the caller hung up while sending
                self._handlers.bodies.release(len(arrived.body))
                response = await self._act(target, parse_document(arrived.body), caller)
            else:
                response = self._described(target)
        except Exception as error:  # the shell's edge: told to the caller in his protocol
            response = self.refusal(as_refused(error))
        # Never compressed: the stock asyncio client says it takes gzip, and here reads it as text.
        await self._calls.send(send, response)

    def _described(self, target: Target) -> Response:
        match target.operation:
            case Operation.SERVER:
                return json_response(server_document())
            case Operation.LIVE:
                return json_response({"live": True})
            case Operation.READY:
                ready = self._handlers.is_ready
                return json_response({"ready": ready}, 200 if ready else 503)
            case Operation.MODELS:
                return json_response({"models": [i.name for i in self._handlers.models()]})
            case Operation.ALL_STATISTICS:
                return self._statistics_of(self._handlers.models())
            case Operation.UNSERVED:
                message = "this part of the protocol is not served here: " + _UNSERVED_PARTS
                raise Refused("bad_request", message, 501)
            case _:
                return self._described_model(target)

    def _described_model(self, target: Target) -> Response:
        info, signature = self._model(target)
        match target.operation:
            case Operation.MODEL:
                versions = [each.bundle for each in self._handlers.versions(info.name)]
                return json_response(model_document(info, signature, versions))
            case Operation.MODEL_READY:
                ready = self._handlers.is_ready
                return json_response({"name": info.name, "ready": ready}, 200 if ready else 503)
            case Operation.CONFIG:
                return json_response(model_config(info, signature))
            case _:
                return self._statistics_of([info])

    def _statistics_of(self, infos: list[ModelInfo]) -> Response:
        counted = [(info, self._statistics.of(info.name, info.bundle)) for info in infos]
        return json_response({"model_stats": [statistics_document(*each) for each in counted]})

    async def _act(
        self, target: Target, document: dict[str, object], caller: Caller | None
    ) -> Response:
        if self._repository is None:
            raise Refused("bad_request", "this endpoint keeps no repository of models", 501)
        if target.operation is Operation.INDEX:
            only_ready = document.get("ready", False)
            if not isinstance(only_ready, bool):
                raise BadRequest("ready must be true or false")
            return json_response(index_document(self._repository.index(), only_ready=only_ready))
        if caller is None or self._change_models is None:
            raise Refused(
                "not_permitted",
                "loading and unloading need access control: start with --keys, and come with a key "
                "of scope admin",
            )
        asked = {"do": target.operation.value[0], "model": target.model}
        if target.operation is Operation.LABEL:
            asked |= {"label": target.label, "version": _version_brought(document)}
        _check_nothing_brought(document)
        # Shielded: a caller who hangs up must not leave a swap half done.
        bundle = await asyncio.shield(self._changed(self._change_models, asked, caller))
        known = target.operation in (Operation.ROLL_BACK, Operation.LABEL)
        return json_response({"name": target.model, "version": bundle} if known else {})

    async def _changed(self, change: Change, asked: Mapping[str, str], caller: Caller) -> str:
        action, model = asked["do"], asked["model"]
        about = {name: text for name, text in asked.items() if name not in ("do", "model")}
        try:  # asked first: what cannot be written down is not done
            await self._record(caller, action, model, {**about, "outcome": "asked"})
        except AuditBroken as broken:
            said = "nothing was done, because it could not be audited"
            raise Unavailable(f"{said}: {broken}") from None
        outcome: dict[str, str] = {"outcome": "failed"}
        try:
            bundle = await change(asked)
            outcome = {"outcome": "done", "bundle": bundle}
        except CallError as error:
            outcome["reason"] = str(error)
            raise
        finally:
            await self._conclude(caller, action, model, {**about, **outcome})
        return bundle

    async def _conclude(
        self, caller: Caller, action: str, model: str, detail: dict[str, str]
    ) -> None:
        """Write down how it ended. That it was asked for stands there already."""
        try:
            await self._record(caller, action, model, detail)
        except AuditBroken as broken:
            lacking = {"action": action, "model": model, **detail, "why": str(broken)}
            _log.error("audit lacks an outcome", extra=lacking)
            said = f"{action} of {model} ended ({detail['outcome']}), but that could not be audited"
            raise Unavailable(f"{said}: {broken}") from None

    async def _record(
        self, caller: Caller, action: str, model: str, detail: dict[str, str]
    ) -> None:
        if self._audit is not None:
            await asyncio.to_thread(
                self._audit.append,
                actor=f"key:{caller.key_id}",
                action=f"model.{action}",
                subject=model,
                detail=detail,
            )


_MOST_SIGNATURES: Final = 256
_UNSERVED_PARTS: Final = "shared memory, tracing, logging settings and text generation"


def _version_brought(document: dict[str, object]) -> str:
    """The version a label is to name; it is taken out of the document."""
    version = document.pop("version", None)
    if not isinstance(version, str) or not version:
        raise BadRequest('say which loaded bundle the label is to name: {"version": "…"}')
    return version


def _check_nothing_brought(document: dict[str, object]) -> None:
    """Models come from where the process was told to take them, never from a request."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("parameters must be a JSON object")
    if brought := sorted(set(parameters) - {"unload_dependents"}):
        raise BadRequest(
            f"this endpoint loads bundles from its own source only; it takes no {brought[0][:80]!r}"
        )
    if parameters.get("unload_dependents"):
        raise BadRequest("models here have no dependents; leave unload_dependents out")
