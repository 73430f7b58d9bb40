"""The simulated network: one link an endpoint, which delays, loses, breaks and damages.

A link is an AsyncTransport, so everything above it is the shipped code, real frames included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

from tierline._config import Tier
from tierline._exceptions import AttemptTimedOut, ConnectFailed, RemoteProtocolError, TransportError
from tierline._transports.base import WireRequest, WireResponse
from tierline.testing.faults import Fault, FaultKind
from tierline.testing.loop import SimLoop
from tierline.testing.nodes import Exchange, NodeProfile, SimNode
from tierline.testing.whose import PINNED, WHOSE

PARETO_SHAPE = 1.5  # a heavy tail: the mean exists, the variance does not


class Witness(Protocol):
    """Who is told what crosses the network."""

    def sent(self, link: SimLink, exchange: Exchange, timeout: float) -> None:
        """The client has started an attempt."""

    def arrived(self, link: SimLink, exchange: Exchange) -> None:
        """The request's bytes have reached the endpoint's machine."""

    def settled(self, link: SimLink, exchange: Exchange, verdict: str) -> None:
        """The attempt is over for the client: "ok", "wrong", "failed", "refused", "neutral"
        or "cancelled"."""

    def struck(self, kind: FaultKind) -> None:
        """A fault has touched a request or an answer."""


class SimLink:
    """The way to one endpoint, and the node at its end."""

    def __init__(
        self,
        url: str,
        tier: Tier,
        profile: NodeProfile,
        *,
        loop: SimLoop,
        seed: int | str,
        witness: Witness,
    ) -> None:
        self.url = url
        self.tier = tier
        self.active: dict[FaultKind, Fault] = {}
        self.open = 0  # attempts the client waits for
        self._loop = loop
        self._rng = Random(f"{seed}/link/{url}")
        self._median = profile.network
        self._jitter = profile.jitter
        self._witness = witness
        self._waiting: dict[Exchange, asyncio.Future[tuple[WireResponse, str]]] = {}
        self._last: WireResponse | None = None  # for misdirected answers
        self.node = SimNode(
            url, tier, profile, loop=loop, seed=seed, active=self.active, answer=self._answer
        )

    # -- AsyncTransport ----------------------------------------------------------------------

    async def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        """Carry one request there and its answer back, in virtual time."""
        exchange = Exchange(request, whose=WHOSE.get(), is_pinned=PINNED.get())
        future: asyncio.Future[tuple[WireResponse, str]] = self._loop.create_future()
        self._waiting[exchange] = future
        timer = self._loop.call_later(timeout, self._expire, exchange)
        self.open += 1
        self._witness.sent(self, exchange, timeout)
        verdict = "cancelled"
        self._depart(exchange)
        try:
            response, verdict = await future
            return response
        except TransportError as error:
            verdict = _ENDS.get(type(error), "failed")
            raise
        finally:
            timer.cancel()
            self.open -= 1
            self._waiting.pop(exchange, None)
            self._witness.settled(self, exchange, verdict)

    async def aclose(self) -> None:
        """There is nothing to close."""

    # -- the way there -----------------------------------------------------------------------

    def _depart(self, exchange: Exchange) -> None:
        active = self.active
        if active:
            if FaultKind.REFUSE in active or FaultKind.CRASH in active:
                refused = ConnectFailed(f"{self.url} refused the connection")
                self._later(self._break, exchange, refused)
                return
            if FaultKind.CUT in active or self._strikes(FaultKind.LOSS):
                return  # vanished; the timeout will tell
            if FaultKind.DUPLICATE in active:
                self._witness.struck(FaultKind.DUPLICATE)
                ghost = Exchange(exchange.request, whose=exchange.call, ghost=True)
                self._later(self._arrive, ghost)
        self._later(self._arrive, exchange)

    def _arrive(self, exchange: Exchange) -> None:
        self._witness.arrived(self, exchange)
        self.node.arrive(exchange)

    # -- the way back ------------------------------------------------------------------------

    def _answer(self, exchange: Exchange, response: WireResponse | None, sound: bool) -> None:
        """The node has answered, or (None) its machine broke the connection."""
        active = self.active
        if exchange.ghost:
            return None
        if response is None:
            return self._later(self._break, exchange, _broken("closed"))
        verdict = _verdict(response, sound)
        if active:
            if FaultKind.CUT in active or FaultKind.ONE_WAY in active:
                return None
            if self._strikes(FaultKind.LOSS):
                return None
            if self._strikes(FaultKind.RESET):
                return self._later(self._break, exchange, _broken("reset"))
            response, verdict = self._damaged(response, verdict)
        if response.status == 200:
            self._last = response
        return self._later(self._deliver, exchange, response, verdict)

    def _damaged(self, response: WireResponse, verdict: str) -> tuple[WireResponse, str]:
        if self._strikes(FaultKind.EOF):
            cut = int(self._rng.random() * len(response.body))
            return response._replace(body=bytes(response.body)[:cut]), "failed"
        if self._strikes(FaultKind.CORRUPT):
            body = bytearray(response.body)
            body[self._rng.choice((0, 3, 7, 8))] ^= 0x55  # magic, version, length, header's type
            return response._replace(body=bytes(body)), "failed"
        if self._last is not None and response.status == 200:
            other = self._last
            if other.headers != response.headers and self._strikes(FaultKind.MISDIRECTED):
                return other, "failed"
        return response, verdict

    def _deliver(self, exchange: Exchange, response: WireResponse, verdict: str) -> None:
        future = self._waiting.get(exchange)
        if future is not None and not future.done():
            future.set_result((response, verdict))

    def _break(self, exchange: Exchange, error: TransportError) -> None:
        future = self._waiting.get(exchange)
        if future is not None and not future.done():
            future.set_exception(error)

    def _expire(self, exchange: Exchange) -> None:
        self._break(exchange, AttemptTimedOut(f"{self.url} did not answer in time"))

    # -- time and chance ---------------------------------------------------------------------

    def _later(self, step: Callable[..., None], *arguments: object) -> None:
        span = self._median
        if self._jitter:
            span *= self._rng.lognormvariate(0.0, self._jitter)
        active = self.active
        if active:
            slow = active.get(FaultKind.LATENCY)
            if slow is not None:
                span *= slow.size
            spikes = active.get(FaultKind.SPIKES)
            if spikes is not None and self._rng.random() < 0.5:
                span += spikes.size * min(50.0, self._rng.paretovariate(PARETO_SHAPE))
            drip = active.get(FaultKind.DRIP)
            if drip is not None and step == self._deliver:
                span += drip.size
        self._loop.in_the_world(span, step, *arguments)

    def _strikes(self, kind: FaultKind) -> bool:
        fault = self.active.get(kind)
        if fault is None or self._rng.random() >= fault.size:
            return False
        self._witness.struck(kind)
        return True

    # -- faults that begin and end -----------------------------------------------------------

    def strike(self, fault: Fault) -> None:
        """From here on the fault acts on this link or its node."""
        self.active[fault.kind] = fault
        self.node.struck(fault.kind)

    def heal(self, fault: Fault) -> None:
        """From here on it does not."""
        if self.active.get(fault.kind) is fault:
            del self.active[fault.kind]
            self.node.healed(fault.kind)


_ENDS = {ConnectFailed: "refused", AttemptTimedOut: "timed_out"}  # any other has "failed"


def _broken(how: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the connection was {how} before the answer")


def _verdict(response: WireResponse, sound: bool) -> str:
    """What a careful client makes of the answer."""
    if response.status == 200:
        return "ok" if sound else "wrong"
    return "neutral" if response.status in (400, 404, 429, 504) else "failed"
