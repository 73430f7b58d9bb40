"""Wrong answers counted by bundle: is it the endpoint that fails, or what it serves?

An answer with NaN in it, of the wrong shape, or that differs from the golden one is a failure of
the endpoint that gave it, once. When two endpoints give wrong answers from the same bundle, the
bundle is implicated: it gets a breaker of its own, whoever serves it is left out for its model, and
the endpoints are not judged for its faults any more. A stale bundle is the endpoint's own fault.

Scores that are plausible and wrong show in golden requests only. A bundle that was implicated by
one is left out until golden requests are answered rightly again: what callers get from it proves
nothing either way.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from tierline._config import BreakerPolicy
from tierline._core.breaker import Breaker, Permit, State
from tierline.wire.messages import ScoreReply, ScoreRequest

WITNESSES = 2  # endpoints with wrong answers that implicate a bundle
WINDOW = 60.0  # seconds within which they speak of the same trouble
REMEMBERED = 64  # bundles with wrong answers; more at once are nothing but noise
TOLERANCE = 1e-3  # times the largest score: what precision and batch may change


class Golden(NamedTuple):
    """A request and the answer its bundle must give. ``tolerance`` is relative to the largest
    score."""

    request: ScoreRequest
    reply: ScoreReply
    tolerance: float = TOLERANCE


def drift(golden: Golden, reply: ScoreReply) -> str:
    """How a reply of the golden bundle differs from the golden one, or "" when it does not, or
    comes from another bundle and cannot be compared."""
    expected = golden.reply
    if reply.bundle != expected.bundle:
        return ""
    if reply.scores.shape != expected.scores.shape:
        return f"{len(reply.scores)} scores, expected {len(expected.scores)}"
    finite = np.isfinite(expected.scores)
    if not np.array_equal(finite, np.isfinite(reply.scores)):
        return "scores are finite where they must not be, or the reverse"
    wanted, given = expected.scores[finite], reply.scores[finite]
    allowed = golden.tolerance * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    gap = float(np.abs(given - wanted).max(initial=0.0))
    return f"a score is off by {gap:.3g}, allowed is {allowed:.3g}" if gap > allowed else ""


class _Suspect:
    """A bundle that has given wrong answers."""

    __slots__ = ("breaker", "is_implicated", "proofs", "seen", "was_golden")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.seen: dict[str, float] = {}  # endpoint → when it last gave a wrong answer
        self.breaker = Breaker(policy)
        self.is_implicated = False
        self.was_golden = False  # whether a golden request has shown it
        self.proofs: dict[str, int] = {}  # endpoint → golden requests answered rightly since

    def witnesses(self, now: float) -> int:
        """Endpoints that gave wrong answers lately."""
        return sum(now - at < WINDOW for at in self.seen.values())

    def awaits_proof(self, now: float) -> bool:
        """Whether only golden requests can clear it. When nobody has asked any for a while, its
        breaker decides again."""
        return self.was_golden and self.witnesses(now) > 0


class SemanticHealth:
    """What is held against bundles. ``is_clear`` is True when nothing is, as on most days."""

    __slots__ = ("_policy", "_suspects", "is_clear")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._suspects: OrderedDict[tuple[str, str], _Suspect] = OrderedDict()
        self.is_clear = True

    def wrong(
        self,
        model: str,
        bundle: str,
        url: str,
        now: float,
        jitter: float,
        *,
        golden: bool = False,
    ) -> bool:
        """A wrong answer from this bundle at this endpoint; ``golden`` says that it was known.
        Whether the bundle is to blame, so that the endpoint is not."""
        place = (model, bundle)
        suspect = self._suspects.get(place)
        if suspect is None:
            suspect = self._suspects[place] = _Suspect(self._policy)
            if len(self._suspects) > REMEMBERED:
                self._suspects.popitem(last=False)
        self.is_clear = False
        suspect.seen[url] = now
        suspect.proofs.pop(url, None)
        suspect.was_golden = suspect.was_golden or golden
        if not suspect.is_implicated and suspect.witnesses(now) < WITNESSES:
            return False
        suspect.is_implicated = True
        if suspect.breaker.state is not State.HALF_OPEN and suspect.breaker.allows(now):
            suspect.breaker.trip(now, jitter, "wrong answers")  # at first, and when it was due
        return True

    def acquire(
        self, model: str, bundle: str, now: float, lease: float
    ) -> tuple[Breaker, Permit] | None:
        """Leave to ask for this bundle's answer, when it is implicated and its breaker lets a probe
        through; None when it must not be asked."""
        suspect = self._suspects[(model, bundle)]
        if suspect.awaits_proof(now):
            return None
        permit = suspect.breaker.acquire(now, lease)
        return None if permit is None else (suspect.breaker, permit)

    def implicates(self, model: str, bundle: str) -> bool:
        """Whether this bundle, not an endpoint, is to blame for wrong answers."""
        suspect = self._suspects.get((model, bundle))
        return suspect is not None and suspect.is_implicated

    def shuns(self, model: str, bundle: str, now: float) -> bool:
        """Whether who serves this bundle is to be left out now."""
        suspect = self._suspects.get((model, bundle))
        if suspect is None or not suspect.is_implicated:
            return False
        return suspect.awaits_proof(now) or not suspect.breaker.allows(now)

    def right(self, model: str, bundle: str, now: float) -> None:
        """A bundle has answered well. What was held against it is forgotten with time, or, once it
        was implicated, when its breaker has closed."""
        suspect = self._suspects.get((model, bundle))
        if suspect is None:
            return
        if suspect.is_implicated:
            is_over = suspect.breaker.state is State.CLOSED and not suspect.awaits_proof(now)
        else:
            is_over = all(now - at >= WINDOW for at in suspect.seen.values())
        if is_over:
            self._forget(model, bundle)

    def proven(self, model: str, bundle: str, url: str, now: float, *, needed: int) -> None:
        """A golden request was answered rightly from this bundle at this endpoint. After ``needed``
        in a row it speaks against the bundle no more; whoever still does, speaks for himself."""
        suspect = self._suspects.get((model, bundle))
        if suspect is None or not suspect.was_golden:
            return
        suspect.proofs[url] = suspect.proofs.get(url, 0) + 1
        if suspect.proofs[url] >= needed:
            suspect.seen.pop(url, None)
        if suspect.witnesses(now) < (WITNESSES if suspect.is_implicated else 1):
            self._forget(model, bundle)

    def _forget(self, model: str, bundle: str) -> None:
        del self._suspects[(model, bundle)]
        self.is_clear = not self._suspects
