"""Watches a run from outside the client: what must hold at every instant, attempt by attempt.

What is watched is what crosses the simulated network and the breakers' public state; the core's
own accounting is not asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tierline._config import ClientConfig, Criticality, Sovereignty, Tier
from tierline.testing.beliefs import BeliefWatch
from tierline.testing.client import SimClock
from tierline.testing.faults import FaultKind
from tierline.testing.load import PlannedCall
from tierline.testing.loop import SimLoop
from tierline.testing.network import SimLink
from tierline.testing.nodes import Exchange
from tierline.testing.outcome import Violation
from tierline.testing.privacy import carried, may_reach, may_see
from tierline.testing.trace import Detail, Trace

DRIFT = 0.02  # how much faster than the loop the client's clock may run
TICK = 1e-6  # seconds; what floating point may lose on the way


@dataclass(slots=True)
class CallWatch:
    """What one call has done so far."""

    planned: PlannedCall
    deadline: float  # by the client's clock
    policy: Sovereignty  # the client's
    began: float = 0.0
    over: bool = False
    sent: int = 0
    by_tier: Counter[str] = field(default_factory=Counter)
    running: list[str] = field(default_factory=list)
    shown: dict[str, bytes] = field(default_factory=dict)  # what each tier saw of it, as it came
    ids: dict[str, str] = field(default_factory=dict)  # under which request id, by tier
    pushed: dict[str, float] = field(default_factory=dict)  # who said to come back, and when to

    @property
    def policies(self) -> list[Sovereignty]:
        """The client's policy, and the call's own."""
        own = self.planned.sovereignty
        return [self.policy] if own is None else [self.policy, own]

    def permits(self, tier: Tier) -> bool:
        """Whether its bytes may reach this tier at all."""
        if self.planned.private:
            return may_reach(self.policies, tier, rows=self.planned.k is None)
        return all(policy.permits(tier) for policy in self.policies)


class Watch:
    """The witness of one run."""

    def __init__(self, config: ClientConfig, loop: SimLoop, clock: SimClock, trace: Trace) -> None:
        self.violations: list[Violation] = []
        self.seen: Counter[str] = Counter()
        self.calls: dict[int, CallWatch] = {}
        self.attempts = 0
        self.forbidden_bytes = 0
        self.beliefs: BeliefWatch | None = None  # once there is a client to watch
        self._config = config
        self._loop = loop
        self._clock = clock
        self._trace = trace

    def violated(self, rule: str, message: str) -> None:
        """Write down that a rule does not hold."""
        self.violations.append(Violation(self._loop.time(), rule, message))

    def noted(self, what: str, *details: Detail) -> None:
        """Write down an event."""
        self._trace.add(self._loop.time(), what, *details)

    def begins(self, planned: PlannedCall) -> CallWatch:
        """A caller has made its call."""
        span = self._config.deadline if planned.deadline is None else planned.deadline
        call = CallWatch(planned, self._clock() + span, self._config.sovereignty)
        call.began = self._loop.time()
        self.calls[planned.number] = call
        self._trace.add(call.began, "call", planned.number)
        return call

    # -- Witness -----------------------------------------------------------------------------

    def sent(self, link: SimLink, exchange: Exchange, timeout: float) -> None:
        """The client has started an attempt."""
        self._trace.add(self._loop.time(), "sent", exchange.call, link.url, timeout)
        call = self.calls.get(exchange.call)
        if self.beliefs is not None:
            kind = Criticality.SHEDDABLE if call is None else call.planned.criticality
            self.beliefs.sent(link, exchange, kind)
        if call is None:
            return
        self.attempts += 1
        call.sent += 1
        call.by_tier[link.tier.name] += 1
        self._check_attempt(call, link, exchange, timeout)
        call.running.append(link.url)

    def arrived(self, link: SimLink, exchange: Exchange) -> None:
        """The request's bytes have reached the endpoint's machine."""
        body = b"".join(exchange.request.body)
        call = self.calls.get(exchange.call)
        if call is not None and not call.permits(link.tier):
            self.forbidden_bytes += len(body)
            self.violated("sovereign", f"call {exchange.call} has reached {link.url}")
        if call is not None:
            call.shown[link.tier.name] = body
            self._check_headers(call, link, exchange)
        for owner, space, name in carried(body):  # a probe may ask again what a call has asked
            owned = self.calls.get(owner)
            if owned is not None and not may_see(owned.policies, link.tier, space, name):
                self.forbidden_bytes += 8
                self.violated("sovereign", f"{link.url} sees {space}.{name} of call {owner}")

    def settled(self, link: SimLink, exchange: Exchange, verdict: str) -> None:
        """The attempt is over for the client."""
        self._trace.add(self._loop.time(), verdict, exchange.call, link.url)
        if self.beliefs is not None:
            self.beliefs.settled(link, exchange, verdict)
        call = self.calls.get(exchange.call)
        if call is not None:
            call.running.remove(link.url)
            if verdict == "neutral" and exchange.pushback is not None:
                call.pushed[link.url] = self._loop.time() + exchange.pushback

    def struck(self, kind: FaultKind) -> None:
        """A fault has touched a request or an answer."""
        self.seen[f"fault {kind}"] += 1

    # -- rules -------------------------------------------------------------------------------

    def _check_headers(self, call: CallWatch, link: SimLink, exchange: Exchange) -> None:
        """What rides beside the body: the trace, and an id that tiers must not join by."""
        tier, number = link.tier, call.planned.number
        plain = exchange.trace == call.planned.traceparent
        if plain is not may_see(call.policies, tier, "call", "traceparent"):
            self.forbidden_bytes += len(exchange.trace or "") if plain else 0
            self.violated("sovereign", f"{link.url} gets the trace {exchange.trace} of {number}")
        known = exchange.request_id or ""
        for other, seen_as in call.ids.items():
            hidden = not may_see(call.policies, tier, "call", "id")
            if seen_as == known and other != tier.name and hidden:
                self.forbidden_bytes += len(known)
                self.violated("sovereign", f"{tier.name} and {other} can join call {number}")
        call.ids[tier.name] = known

    def _check_attempt(
        self, call: CallWatch, link: SimLink, exchange: Exchange, timeout: float
    ) -> None:
        number, policy = call.planned.number, self._config.retry
        if call.over:
            self.violated("no attempt after the end", f"call {number} asks {link.url}")
        if call.sent > policy.attempts:
            self.violated("attempts capped", f"call {number} makes attempt {call.sent}")
        if call.by_tier[link.tier.name] > policy.per_tier:
            self.violated("attempts capped", f"call {number}, tier {link.tier.name}: one too many")
        if link.url in call.running:
            self.violated("hedge elsewhere", f"call {number} asks {link.url} twice at once")
        if len(call.running) >= 2:
            self.violated("one hedge at a time", f"call {number} has three attempts out")
        until = call.pushed.pop(link.url, None)
        if until is not None:
            self.seen["pushback honoured"] += 1
            if self._loop.time() < until - DRIFT * (until - call.began):
                self.violated(
                    "pushback is honoured", f"call {number} is back at {link.url} too soon"
                )
        left = call.deadline - self._clock()
        if timeout > left + TICK:
            self.violated(
                "within the deadline", f"call {number}: {timeout:.6f} s, {left:.6f} s are left"
            )
        told = exchange.node_deadline
        if told is None or told > left + 0.001:
            self.violated("remaining time is sent", f"call {number}: told {told}, left {left:.6f}")
        if not call.permits(link.tier):
            self.violated("sovereign", f"call {number} is sent to {link.url}")
