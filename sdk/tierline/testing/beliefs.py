"""Watches what the client believes of its endpoints against a model built from the network alone.

Breakers take legal steps, let few probes through and are not passed while open; who is ejected is
left out, unless too few are left; nobody is asked more than its limiter allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import NamedTuple, Protocol

from tierline._config import ClientConfig, Criticality
from tierline._core.breaker import OUTRUN, Breaker, State
from tierline._core.fleet import EndpointState, Fleet, TierState
from tierline.testing.network import SimLink
from tierline.testing.nodes import Exchange
from tierline.testing.truth import MODEL

PROBES_AT_MOST = 4  # half-open permits out at once, however many probes have succeeded
CUT = 0.9  # what one drop leaves of a limit; it may come between a choice and its sending
CLASSES = tuple(Criticality)
SLOWEST_CLOCK = 0.98  # of the client, beside the loop's
LEGAL = {
    (State.CLOSED, State.OPEN),
    (State.OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, State.OPEN),
    (State.HALF_OPEN, State.CLOSED),
}
Clock = Callable[[], float]


class Notes(Protocol):
    """Where a rule that does not hold, and an edge that was taken, are written down."""

    seen: Counter[str]

    def violated(self, rule: str, message: str) -> None: ...

    def noted(self, what: str, *details: str | int | float) -> None: ...


class Out(NamedTuple):
    """An attempt that is out: the generation it began in, and when, by the client's clock."""

    generation: int
    began: float
    rank: int  # of its class, the most critical first


class Seen:
    """What is known of one endpoint."""

    __slots__ = (
        "bad",
        "breaker",
        "consecutive",
        "endpoint",
        "generation",
        "good",
        "let_through",
        "lost",
        "out",
        "out_since",
        "panicked_at",
        "panics",
        "since",
        "state",
        "tier",
    )

    def __init__(self, endpoint: EndpointState, tier: TierState) -> None:
        self.endpoint = endpoint
        self.tier = tier
        self.breaker: Breaker = endpoint.breaker(MODEL)
        self.state = State.CLOSED
        self.generation = 0
        self.let_through = 0.0  # when it was last seen not to be open
        self.since = 0.0  # when this state was first seen
        self.bad = 0  # failures that came back in this generation
        self.good = 0
        self.lost = 0  # taken back
        self.consecutive = 0  # failures in a row of attempts begun and ended in this generation
        self.out: dict[Exchange, Out] = {}
        self.out_since: float | None = None  # when it was first seen to be ejected
        self.panics = 0  # of its tier, when last seen
        self.panicked_at = -1.0  # when their number was last seen to grow


class BeliefWatch:
    """Every endpoint of the fleet, looked at with every event that concerns it."""

    def __init__(
        self, config: ClientConfig, fleet: Fleet, notes: Notes, *, now: Clock, clock: Clock
    ) -> None:
        """``now`` is the loop's time, ``clock`` the client's own."""
        self._policy = config.breaker
        self._is_probed = config.health is not None
        self._notes = notes
        self._now = now
        self._clock = clock
        self._seen = {
            endpoint.url: Seen(endpoint, tier)
            for tier in fleet.tiers
            for endpoint in tier.endpoints
        }
        self._slowest = dict.fromkeys((tier.name for tier in fleet.tiers), 0.0)
        self._semantic = fleet.semantic
        self._tiers = fleet.tiers
        self._over: set[int] = set()  # calls; the network hears of their attempts' end a turn later

    def ended(self, call: int) -> None:
        """A call is over, and with it every attempt it had out."""
        self._over.add(call)
        self.look()

    def sent(self, link: SimLink, exchange: Exchange, criticality: Criticality) -> None:
        """An attempt starts: may it?"""
        self._look_for_panic()
        seen = self._look(link.url)
        if not exchange.call and not exchange.is_shadow:
            return  # not a call's attempt; probes of health are meant to ask who is out
        notes, url = self._notes, link.url
        if exchange.is_shadow:
            notes.seen["shadow"] += 1
            if link.tier.kind != "cloud" or seen.state is not State.CLOSED:
                notes.violated(
                    "shadows risk nothing", f"{url} ({seen.state.value}) is shown a call"
                )
        if seen.state is State.OPEN and seen.since < self._now():
            notes.violated("open means closed off", f"{url} is asked while open")
        if seen.state is State.HALF_OPEN:
            probes = sum(
                out.generation == seen.generation and other.call not in self._over
                for other, out in seen.out.items()
            )
            allowed = min(PROBES_AT_MOST, 2**seen.good)
            if probes >= allowed:
                notes.violated("half-open lets few through", f"{url}: {probes} out of {allowed}")
        if seen.state is State.CLOSED and seen.consecutive >= 2 * self._policy.consecutive + 3:
            notes.violated(
                "failures open", f"{url} is asked after {seen.consecutive} failures in a row"
            )
        if seen.out_since is not None and seen.out_since < self._now():
            if seen.panicked_at >= self._now():
                notes.seen["panic"] += 1
            # One probe at a time, because everybody else is full.
            elif seen.state is State.HALF_OPEN and not seen.endpoint.standing.is_down:
                notes.seen["early probe"] += 1
            else:
                notes.violated("ejected means left out", f"{url} is asked while ejected")
        rank, now = CLASSES.index(criticality), self._clock()
        seen.out[exchange] = Out(seen.generation, now, rank)
        # Who was chosen in the same instant may have been so after this one: the less critical
        # one is, the earlier it must have been.
        room = seen.endpoint.limiter.room
        out = sum(other.began < now or other.rank >= rank for other in seen.out.values())
        if out > ceil(room[criticality] / CUT) + 1:
            allowed = f"{room[criticality]} allowed to {criticality} calls"
            notes.violated("limits hold", f"{url}: {out} out, {allowed}")
        if out > room[Criticality.SHEDDABLE]:
            notes.seen[f"{criticality} call where sheddable ones are shed"] += 1

    def settled(self, link: SimLink, exchange: Exchange, verdict: str) -> None:
        """An attempt is over; the client hears of it right after us."""
        seen = self._look(link.url)
        out = seen.out.pop(exchange, None)
        generation = None if out is None else out.generation
        if generation != seen.generation and generation is not None and verdict != "cancelled":
            self._notes.seen["late result"] += 1  # of a generation that is over: changes nothing
        if verdict == "ok":
            seen.consecutive = 0
            seen.good += generation == seen.generation
        elif verdict == "cancelled":
            seen.lost += generation == seen.generation
        elif verdict == "wrong":  # may count against the bundle, or against the endpoint
            seen.bad += 1
        elif verdict in ("failed", "refused", "timed_out"):
            seen.bad += 1
            hurried = verdict == "timed_out" and self._may_be_hurried(seen, out)
            self._notes.seen["timed out in a hurry"] += hurried
            seen.consecutive += not hurried and generation == seen.generation
        if verdict == "ok" and out is not None:
            took = self._clock() - out.began
            self._slowest[seen.tier.name] = max(took, self._slowest[seen.tier.name])

    def _may_be_hurried(self, seen: Seen, out: Out | None) -> bool:
        """Whether its call may have left it less time than answers of its tier take: less than the
        slowest so far took. Such an attempt may, and need not, have counted."""
        return out is None or self._clock() - out.began < self._slowest[seen.tier.name]

    def look(self) -> None:
        """Look at every endpoint once more."""
        for url in self._seen:
            self._look(url)
        self._look_for_panic()
        now = self._clock()
        for tier in self._tiers:
            if not tier.budget.affords(now):
                self._notes.seen["retry budget exhausted"] += 1

    def _look_for_panic(self) -> None:
        for seen in self._seen.values():
            if seen.tier.panics != seen.panics:
                seen.panics, seen.panicked_at = seen.tier.panics, self._now()

    def _look(self, url: str) -> Seen:
        seen = self._seen[url]
        breaker = seen.breaker
        if breaker.generation != seen.generation or breaker.state is not seen.state:
            self._stepped(url, seen, breaker.state, breaker.generation)
        if breaker.state is not State.OPEN:
            seen.let_through = self._now()
        standing = seen.endpoint.standing
        if standing.is_plain or not standing.is_out(MODEL, self._clock()):
            seen.out_since = None
        elif seen.out_since is None:
            seen.out_since = self._now()
            self._notes.seen["ejected"] += 1
        if not self._semantic.is_clear:
            self._look_at_bundle(seen)
        return seen

    def _look_at_bundle(self, seen: Seen) -> None:
        bundle = seen.endpoint.served(MODEL).bundle
        if bundle and self._semantic.implicates(MODEL, bundle):
            self._notes.seen["bundle implicated"] += 1

    def _stepped(self, url: str, seen: Seen, state: State, generation: int) -> None:
        steps = generation - seen.generation
        self._notes.noted("breaker", url, state.value, generation)
        if steps <= 0 or (steps == 1 and (seen.state, state) not in LEGAL):
            self._notes.violated(
                "breaker steps are legal",
                f"{url}: {seen.state.value} {seen.generation} to {state.value} {generation}",
            )
        if state is State.OPEN:
            self._notes.seen[f"breaker opened by {seen.breaker.opened_by}"] += 1
        if steps == 1:
            self._notes.seen[f"breaker {seen.state.value} to {state.value}"] += 1
            if seen.state is State.CLOSED:
                self._check_opening(url, seen)
            if seen.state is State.OPEN:
                self._check_wait(url, seen)
            if state is State.CLOSED and seen.good < self._policy.close_after:
                self._notes.violated(
                    "only successes close", f"{url} closed after {seen.good} successes"
                )
        seen.state, seen.generation, seen.since = state, generation, self._now()
        seen.bad = seen.good = seen.lost = seen.consecutive = 0

    def _check_opening(self, url: str, seen: Seen) -> None:
        policy = self._policy
        had, fewest = seen.bad, min(policy.consecutive, self._fewest(policy.failure_rate))
        if seen.breaker.opened_by == "slow":
            had, fewest = seen.bad + seen.good, self._fewest(policy.slow_rate)
        elif seen.breaker.opened_by == "outrun":  # the last one is about to be taken back
            out = sum(out.generation == seen.generation for out in seen.out.values())
            had, fewest = seen.bad + seen.lost + out, max(OUTRUN, policy.consecutive)
        if had < fewest:
            self._notes.violated("only failures open", f"{url} opened after {had}, not {fewest}")

    def _check_wait(self, url: str, seen: Seen) -> None:
        """Half of ``open_for`` is fixed, the rest is jitter; probes of health may shorten it."""
        waited = self._now() - seen.let_through
        if waited < SLOWEST_CLOCK * self._policy.open_for / 2 and not self._is_probed:
            self._notes.violated("open lasts", f"{url} was open for {waited:.4f} s only")

    def _fewest(self, rate: float) -> int:
        return ceil(self._policy.minimum_calls * rate)
