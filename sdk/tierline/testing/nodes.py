"""Simulated tiers: nodes with workers, a queue, a bundle, doubts, and faults of their own."""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random

import msgpack
import numpy as np

from tierline._config import Tier
from tierline._transports.base import WireRequest, WireResponse
from tierline.deadline import DEADLINE_HEADER
from tierline.testing.faults import Fault, FaultKind
from tierline.testing.loop import SimLoop
from tierline.testing.privacy import carried, decimals
from tierline.testing.truth import CATALOGUE, THRESHOLD, certificate_of, prior_scores, true_reply
from tierline.testing.whose import NOBODYS, SHADOWS
from tierline.wire import (
    ErrorReply,
    ScoreReply,
    ScoreRequest,
    decode_request,
    encode_error,
    encode_reply,
)
from tierline.wire.errors import http_status
from tierline.wire.headers import REQUEST_ID_HEADER, TRACEPARENT_HEADER

COLD_FACTOR = 10.0  # how much slower a node computes right after a restart
COLD_SPAN = 0.5  # seconds it stays so
BUNDLES = tuple(f"2026.{i}@{i:012x}" for i in range(1, 9))
_PREAMBLE = struct.Struct("<4sI")  # as wire.frames writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProfile:
    """How one endpoint behaves while healthy. Times are in seconds."""

    workers: int = 4
    compute: float = 0.003  # median of a request's computing time
    spread: float = 0.25  # sigma of its logarithm; 0: always the same
    queue: int = 64  # requests that may wait; one more is refused for load
    drops_expired: bool = True  # work whose deadline has passed is not computed
    network: float = 0.0005  # median of one way
    jitter: float = 0.3  # sigma of its logarithm
    doubt: float = 0.2  # share of answers above the bundle's threshold; edge tiers only
    bundle: int = 1  # index of the bundle it starts with (of BUNDLES)


class Exchange:
    """One request on its way to one endpoint and back."""

    __slots__ = (
        "call",
        "ghost",
        "is_pinned",
        "is_shadow",
        "node_deadline",
        "pushback",
        "request",
        "request_id",
        "trace",
    )

    def __init__(
        self, request: WireRequest, *, whose: int, is_pinned: bool = False, ghost: bool = False
    ) -> None:
        headers = dict(request.headers)
        self.request = request
        self.ghost = ghost  # a duplicate: nobody waits for its answer
        self.request_id = headers.get(REQUEST_ID_HEADER)
        self.trace = headers.get(TRACEPARENT_HEADER)
        is_probe = request.method == "GET" or (self.request_id or "").startswith("probe-")
        self.call = NOBODYS if is_probe else max(NOBODYS, whose)  # a number of the load's
        self.is_shadow = not is_probe and whose == SHADOWS
        self.is_pinned = is_pinned or self.is_shadow  # no other bundle's answer will do
        self.pushback: float | None = None  # the seconds it was told to stay away
        self.node_deadline: float | None = None
        left = headers.get(DEADLINE_HEADER)
        if left is not None:
            self.node_deadline = float(left) / 1000.0  # a span until it arrives


Answering = Callable[[Exchange, WireResponse | None, bool], None]


class SimNode:
    """One endpoint's machine. ``active`` are the faults it suffers now, shared with its link."""

    def __init__(
        self,
        url: str,
        tier: Tier,
        profile: NodeProfile,
        *,
        loop: SimLoop,
        seed: int | str,
        active: dict[FaultKind, Fault],
        answer: Answering,
    ) -> None:
        self.url = url
        self.tier = tier
        self.profile = profile
        self.bundle = profile.bundle
        self.computed = 0
        self.expired = 0
        self.served: set[str] = {BUNDLES[self.bundle]}
        self._loop = loop
        self._rng = Random(f"{seed}/node/{url}")
        self._active = active
        self._answer = answer
        self._queue: deque[Exchange] = deque()
        self._parked: list[Exchange] = []  # what came while it was frozen
        self._busy = 0
        self._life = 0  # restarts so far
        self._cold_until = 0.0

    # -- requests ----------------------------------------------------------------------------

    def arrive(self, exchange: Exchange) -> None:
        """A request has reached the machine."""
        if exchange.node_deadline is not None:
            exchange.node_deadline += self._loop.time()
        self._accept(exchange)

    def _accept(self, exchange: Exchange) -> None:
        active = self._active
        if active:
            if FaultKind.CRASH in active:
                return self._answer(exchange, None, False)
            if FaultKind.FREEZE in active:
                return self._parked.append(exchange)
            refusal = self._refusal(exchange)
            if refusal is not None:
                return self._answer(exchange, _signed(refusal, exchange), False)
        if exchange.request.method == "GET":
            return self._answer(exchange, self._describe(exchange.request.path), True)
        if len(self._queue) >= self.profile.queue:
            exchange.pushback = 0.02
            busy = ErrorReply(code="overloaded", message="the queue is full", retry_after=0.02)
            return self._answer(exchange, _signed(_error(busy), exchange), False)
        self._queue.append(exchange)
        return self._pump()

    def _refusal(self, exchange: Exchange) -> WireResponse | None:
        """What it says instead of working, if a fault makes it refuse."""
        if self._strikes(FaultKind.BUSY):
            after = self._rng.choice((0.005, 0.03, 1.0))
            exchange.pushback = after
            said = _indiscreet("busy", exchange)
            return _error(ErrorReply(code="overloaded", message=said, retry_after=after))
        if self._strikes(FaultKind.GARBLED_BUSY):
            nonsense = self._rng.choice((-5.0, float("nan"), float("inf"), "soon", 1e308))
            return _raw_error("overloaded", nonsense, 429 if nonsense == 1e308 else 500)
        if self._strikes(FaultKind.ERRORS):
            code = self._rng.choice(("model_failed", "unavailable", "brand_new_code"))
            return _raw_error(code, None, 500, _indiscreet("trouble", exchange))
        if self._strikes(FaultKind.REJECT):
            said = _indiscreet("no such feature", exchange)
            return _error(ErrorReply(code="bad_request", message=said))
        return None

    def _strikes(self, kind: FaultKind) -> bool:
        fault = self._active.get(kind)
        return fault is not None and self._rng.random() < fault.size

    def _pump(self) -> None:
        capacity = self._active.get(FaultKind.CAPACITY)
        workers = self.profile.workers
        if capacity is not None:
            workers = max(1, int(workers * capacity.size))
        while self._queue and self._busy < workers and FaultKind.FREEZE not in self._active:
            exchange = self._queue.popleft()
            if self.profile.drops_expired and self._is_expired(exchange):
                self.expired += 1
                late = ErrorReply(code="deadline_exceeded", message="nobody waits any more")
                self._answer(exchange, _signed(_error(late), exchange), False)
                continue
            self._busy += 1
            self._loop.in_the_world(self._compute_time(), self._finish, exchange, self._life)

    def _is_expired(self, exchange: Exchange) -> bool:
        deadline = exchange.node_deadline
        return deadline is not None and self._loop.time() >= deadline

    def _compute_time(self) -> float:
        span = self.profile.compute
        if self.profile.spread:
            span *= self._rng.lognormvariate(0.0, self.profile.spread)
        slow = self._active.get(FaultKind.SLOW)
        if slow is not None:
            span *= slow.size
        return span * COLD_FACTOR if self._loop.time() < self._cold_until else span

    def _finish(self, exchange: Exchange, life: int) -> None:
        if life != self._life:  # it crashed meanwhile
            return
        if FaultKind.FREEZE in self._active:
            self._busy -= 1
            self._parked.append(exchange)
            return
        self._busy -= 1
        self.computed += 1
        body = b"".join(exchange.request.body)
        response, sound = self._score(decode_request(body), exchange.is_pinned)
        self._answer(exchange, _signed(response, exchange), sound)
        self._pump()

    # -- answers -----------------------------------------------------------------------------

    def _score(self, request: ScoreRequest, is_pinned: bool) -> tuple[WireResponse, bool]:
        """The answer, and whether it is one: of the right shape, finite, of what was asked for."""
        index = self.bundle - 1 if FaultKind.STALE in self._active else self.bundle
        bundle = BUNDLES[max(0, index)]
        if request.version not in (None, BUNDLES[self.bundle]):
            absent = ErrorReply(code="model_not_found", message=f"{bundle} is served here")
            return _error(absent), False
        doubt: float | None = None
        if self.tier.kind == "edge":
            unsure = self._rng.random() < self.profile.doubt
            doubt = (0.5 + 0.5 * self._rng.random()) if unsure else THRESHOLD * self._rng.random()
        self.served.add(bundle)
        reply = true_reply(bundle, request, doubt)
        sound = not is_pinned or request.version in (None, bundle)
        for kind in (FaultKind.NAN, FaultKind.INFINITE, FaultKind.SHORT):
            if kind in self._active:
                reply, sound = _spoiled(reply, kind), False
        return WireResponse(200, {}, b"".join(encode_reply(reply))), sound

    def _describe(self, path: str) -> WireResponse:
        if path.endswith("/prior"):
            scores = prior_scores()[1:]
            items = np.arange(1, CATALOGUE + 1, dtype=np.int64)
            reply = ScoreReply(model="ranker", bundle=BUNDLES[0], scores=scores, items=items)
            return WireResponse(200, {}, b"".join(encode_reply(reply)))
        bundle = BUNDLES[self.bundle]
        description: dict[str, object] = {"name": path.rsplit("/", 1)[-1], "bundle": bundle}
        if self.tier.kind == "edge":
            certificate = certificate_of(bundle)
            running = asdict(certificate.subject)
            del running["cloud"]
            details = {"certificate": certificate.to_json(), "subject": running}
            description |= {"kind": "sequence", "threshold": THRESHOLD, "details": details}
        return WireResponse(200, {}, json.dumps(description).encode())

    # -- faults that begin and end -----------------------------------------------------------

    def struck(self, kind: FaultKind) -> None:
        """A fault has begun here."""
        if kind is FaultKind.CRASH:
            self._life += 1
            self._busy = 0
            for exchange in [*self._queue, *self._parked]:
                self._answer(exchange, None, False)
            self._queue.clear()
            self._parked.clear()
        elif kind is FaultKind.SWAP:
            self.bundle = min(self.bundle + 1, len(BUNDLES) - 1)

    def healed(self, kind: FaultKind) -> None:
        """A fault has ended here."""
        if kind is FaultKind.CRASH:
            self._cold_until = self._loop.time() + COLD_SPAN
        elif kind is FaultKind.FREEZE:
            waiting, self._parked = self._parked, []
            for exchange in waiting:
                self._accept(exchange)
        self._pump()


def _signed(response: WireResponse, exchange: Exchange) -> WireResponse:
    """The answer says which request it answers, as the real node's does."""
    if exchange.request_id is None:
        return response
    return response._replace(headers={REQUEST_ID_HEADER: exchange.request_id})


def _error(error: ErrorReply) -> WireResponse:
    return WireResponse(http_status(error.code), {}, b"".join(encode_error(error)))


def _indiscreet(message: str, exchange: Exchange) -> str:
    """An endpoint's own words, with all that it was shown of what is private."""
    body = b"".join(exchange.request.body)
    shown = [text for number, _, _ in carried(body) for text in decimals(number)]
    return f"{message} for {', '.join(shown)}" if shown else message


def _raw_error(
    code: str, retry_after: object, status: int, message: str = "trouble"
) -> WireResponse:
    """An error frame no encoder of ours would write; 429 when it can be read for all that."""
    packed: bytes = msgpack.packb(["e", code, message, retry_after])
    frame = _PREAMBLE.pack(b"TLF\x01", len(packed)) + packed
    return WireResponse(status, {}, frame + bytes(-len(frame) % 16))


def _spoiled(reply: ScoreReply, kind: FaultKind) -> ScoreReply:
    scores = reply.scores.copy()
    if kind is FaultKind.SHORT:
        items = None if reply.items is None else reply.items[:-1]
        return reply._replace(scores=scores[:-1], items=items)
    scores[len(scores) // 2] = np.nan if kind is FaultKind.NAN else np.inf
    return reply._replace(scores=scores)
