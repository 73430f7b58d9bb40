"""Watches breakers against a model of their own: built from what crossed the network alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import ceil
from typing import Protocol

from tierline._config import BreakerPolicy
from tierline._core.breaker import Breaker, State
from tierline.testing.network import SimLink
from tierline.testing.nodes import Exchange

PROBES_AT_MOST = 4  # half-open permits out at once, however many probes have succeeded
LEGAL = {
    (State.CLOSED, State.OPEN),
    (State.OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, State.OPEN),
    (State.HALF_OPEN, State.CLOSED),
}


class Notes(Protocol):
    """Where a rule that does not hold, and an edge that was taken, are written down."""

    seen: Counter[str]

    def violated(self, rule: str, message: str) -> None: ...

    def noted(self, what: str, *details: str | int | float) -> None: ...


class Seen:
    """What is known of one endpoint's breaker."""

    __slots__ = ("bad", "consecutive", "generation", "good", "out", "since", "state")

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.generation = 0
        self.since = 0.0  # when this state was first seen
        self.bad = 0  # failures that came back in this generation
        self.good = 0
        self.consecutive = 0  # failures in a row of attempts begun and ended in this generation
        self.out: dict[Exchange, int] = {}  # attempts that are out, and their generation


class BreakerWatch:
    """Every endpoint's breaker: legal steps, few probes, none asked while open."""

    def __init__(self, policy: BreakerPolicy, notes: Notes) -> None:
        self._policy = policy
        self._notes = notes
        self._breakers: Mapping[str, Callable[[], Breaker]] = {}
        self._seen: dict[str, Seen] = {}
        self.now: Callable[[], float] = float
        # A process that stood still finds its attempts timed out, some before they were sent.
        self.stalled = False

    def watch(
        self, breakers: Mapping[str, Callable[[], Breaker]], now: Callable[[], float]
    ) -> None:
        """From here on these breakers, by URL, are looked at with every event."""
        self._breakers = breakers
        self._seen = {url: Seen() for url in breakers}
        self.now = now

    def sent(self, link: SimLink, exchange: Exchange) -> None:
        """An attempt starts: may it?"""
        seen = self._look(link.url)
        if seen is None or exchange.request.method == "GET":
            return
        if seen.state is State.OPEN and seen.since < self.now():
            self._notes.violated("open means closed off", f"{link.url} is asked while open")
        if seen.state is State.HALF_OPEN:
            probes = sum(1 for generation in seen.out.values() if generation == seen.generation)
            allowed = min(PROBES_AT_MOST, 2**seen.good)
            if probes >= allowed:
                self._notes.violated(
                    "half-open lets few through", f"{link.url}: {probes} out, {allowed} allowed"
                )
        if seen.state is State.CLOSED and seen.consecutive >= 2 * self._policy.consecutive + 3:
            self._notes.violated(
                "failures open", f"{link.url} is asked after {seen.consecutive} failures in a row"
            )
        seen.out[exchange] = seen.generation

    def settled(self, link: SimLink, exchange: Exchange, verdict: str) -> None:
        """An attempt is over; the breaker hears of it right after us."""
        seen = self._look(link.url)
        if seen is None:
            return
        generation = seen.out.pop(exchange, None)
        if verdict == "ok":
            seen.consecutive = 0
            seen.good += generation == seen.generation
        elif verdict in ("failed", "refused"):
            seen.bad += 1
            seen.consecutive += generation == seen.generation

    def look(self) -> None:
        """Look at every breaker once more."""
        for url in self._seen:
            self._look(url)

    def _look(self, url: str) -> Seen | None:
        seen = self._seen.get(url)
        if seen is None:
            return None
        breaker = self._breakers[url]()
        state, generation = breaker.state, breaker.generation
        if (state, generation) != (seen.state, seen.generation):
            self._stepped(url, seen, state, generation)
        return seen

    def _stepped(self, url: str, seen: Seen, state: State, generation: int) -> None:
        steps = generation - seen.generation
        self._notes.noted("breaker", url, state.value, generation)
        if steps <= 0 or (steps == 1 and (seen.state, state) not in LEGAL):
            self._notes.violated(
                "breaker steps are legal",
                f"{url}: {seen.state.value} {seen.generation} to {state.value} {generation}",
            )
        if steps == 1:
            self._notes.seen[f"breaker {seen.state.value} to {state.value}"] += 1
            if seen.state is State.CLOSED:
                self._check_opening(url, seen)
            if state is State.CLOSED and seen.good < self._policy.close_after:
                self._notes.violated(
                    "only successes close", f"{url} closed after {seen.good} successes"
                )
        seen.state, seen.generation, seen.since = state, generation, self.now()
        seen.bad = seen.good = seen.consecutive = 0

    def _check_opening(self, url: str, seen: Seen) -> None:
        policy = self._policy
        fewest = min(policy.consecutive, ceil(policy.minimum_calls * policy.failure_rate))
        if seen.bad < fewest and not self.stalled:
            self._notes.violated(
                "only failures open", f"{url} opened after {seen.bad} failures, not {fewest}"
            )
