"""What is believed of latencies: peak-EWMA of an endpoint, quantiles of a tier, censored apart."""

from __future__ import annotations

import math
from bisect import bisect_left

SIZE = 512  # latencies remembered: five of a thousand lie above the 99th percentile
PENALTY_DECAY = 1.0  # seconds; a hundredth of a failure's weight is left after five
REFRESH = 32  # observations between two sorts
FRESH = 10.0  # seconds
KNOWN = 0.95  # the share of the curve that answers must have drawn before its tail is believed
BASELINE_DOUBLES = 60.0  # seconds; a tier is believed to have slowed down for good this slowly


HINT_HALVES = 0.1  # seconds: a queue's length is news for about as long as the queue


class PeakEwma:
    """An endpoint's latency, in seconds: jumps to a peak, forgets it over ``decay`` seconds.

    Finagle's peak-EWMA: a slow endpoint is believed at once, a recovered one slowly. A failure
    counts as a long answer, but is forgotten over ``PENALTY_DECAY``: beside an idle and fast peer
    an endpoint would else be shunned for a minute because one connection broke.
    """

    __slots__ = ("_at", "_decay", "_penalised_at", "_penalty", "_value")

    def __init__(self, decay: float = 10.0) -> None:
        self._decay = decay
        self._value = 0.0
        self._at = 0.0
        self._penalty = 0.0
        self._penalised_at = 0.0

    def observe(self, latency: float, now: float) -> None:
        if latency > self._value:
            self._value = latency
        else:
            weight = math.exp(-max(0.0, now - self._at) / self._decay)
            self._value = latency + (self._value - latency) * weight
        self._at = now

    def penalise(self, latency: float, now: float) -> None:
        """An attempt failed, which is as bad as an answer after ``latency`` seconds."""
        self._penalty = max(latency, self._penalty_left(now))
        self._penalised_at = now

    def forget(self) -> None:
        """As if it had never been asked."""
        self._value = self._penalty = 0.0

    def value(self, now: float) -> float:
        """The belief now; an endpoint left alone looks better as time passes. 0.0: never asked."""
        value = self._value * math.exp(-max(0.0, now - self._at) / self._decay)
        if self._penalty:
            value = max(value, self._penalty_left(now))
        return value

    def _penalty_left(self, now: float) -> float:
        return self._penalty * math.exp(-max(0.0, now - self._penalised_at) / PENALTY_DECAY)


class QueueHint:
    """How much longer than the last answer a newcomer would wait at an endpoint, as that answer
    said, in seconds; half of it is forgotten every ``HINT_HALVES`` seconds, for queues drain."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = 0.0

    def observe(self, expected: float, waited: float, now: float) -> None:
        """An answer that had waited ``waited`` said that one asked now would wait ``expected``."""
        self._value = max(0.0, expected - waited)
        self._at = now

    def value(self, now: float) -> float:
        """What is left of it."""
        if not self._value:
            return 0.0
        return self._value * math.exp2(-max(0.0, now - self._at) / HINT_HALVES)


class LatencyWindow:
    """Quantiles of the last latencies, in seconds; sorted anew only every few observations.

    A hedge's loser is right-censored: it would have taken longer than it was waited for. Left out,
    it would make the tail look short and the next hedge come sooner; taken as it is, likewise. It
    counts by the product-limit estimate (Kaplan and Meier 1958).

    ``fastest`` (10th percentile), ``typical`` (median), ``late`` (95th) and ``slowest`` (99.9th)
    are None before the first ``REFRESH`` observations; ``usual`` is the median that the tier keeps
    to in the long run, infinite till then. ``usually_late`` is the 95th percentile likewise; until
    it was measured, which ``knows_late`` says (who never waits that long cannot know it), it is the
    fastest answer so far, or 0.0.
    """

    __slots__ = (
        "_answers",
        "_fresh",
        "_measured",
        "_next",
        "_refreshed_at",
        "_values",
        "fastest",
        "knows_late",
        "late",
        "slowest",
        "typical",
        "usual",
        "usually_late",
    )

    def __init__(self) -> None:
        self._values: list[float] = []  # censored ones are negative
        self._next = 0
        self._fresh = 0
        self._refreshed_at = 0.0
        self._answers = 0  # among the values when they were last sorted
        self._measured = 0.0  # the share of the curve that answers have drawn; then come guesses
        self.knows_late = False
        self.fastest: float | None = None
        self.typical: float | None = None
        self.late: float | None = None
        self.slowest: float | None = None
        self.usual = math.inf
        self.usually_late = 0.0

    def observe(self, latency: float, now: float) -> None:
        """An attempt took this long to be answered."""
        if not self.knows_late and latency >= 0.0:
            self.usually_late = min(self.usually_late or math.inf, latency)
        values = self._values
        if len(values) < SIZE:
            values.append(latency)
        else:
            place = self._next
            values[place] = latency
            self._next = place + 1 if place + 1 < SIZE else 0
        self._fresh += 1
        if self._fresh >= REFRESH:
            self._refresh(now)

    def censored(self, waited: float, now: float) -> None:
        """An attempt was given up after this long, for no fault of its own."""
        self.observe(-max(waited, 1e-9), now)

    def timed_out(self, waited: float, now: float) -> None:
        """An attempt was not answered in time. Counts as censored, and soon: timeouts that follow
        from a tail measured in better days must not outlive a few of them."""
        self._fresh += REFRESH // 4
        self.censored(waited, now)

    @property
    def tail(self) -> float | None:
        """The 99.9th percentile, where enough answers have drawn the curve as far as they ever do
        (``KNOWN``); None where it would only tell how long callers have had patience."""
        is_known = self._measured >= KNOWN and self._answers >= REFRESH
        return self.slowest if is_known else None

    def lately_typical(self, now: float) -> float:
        """The median, while it is fresh and answers have shown it; 0.0 else: what is stale, or only
        known to take longer than anybody waited, must not keep calls away, or nobody would ever
        find out better."""
        if self.typical is None or self._measured < 0.5 or now - self._refreshed_at >= FRESH:
            return 0.0
        return self.typical

    def lately_fastest(self, now: float) -> float:
        """The 10th percentile, likewise."""
        if self.fastest is None or self._measured < 0.1 or now - self._refreshed_at >= FRESH:
            return 0.0
        return self.fastest

    def _refresh(self, now: float) -> None:
        self._fresh = 0
        ordered = sorted(self._values)
        self._answers = len(ordered) - bisect_left(ordered, 0.0)
        self._measured = 1.0
        if ordered[0] >= 0.0:
            last = len(ordered) - 1
            self.fastest = ordered[min(last, int(0.1 * len(ordered)))]
            self.typical = ordered[min(last, int(0.5 * len(ordered)))]
            self.late = ordered[min(last, int(0.95 * len(ordered)))]
            self.slowest = ordered[min(last, int(0.999 * len(ordered)))]
        else:
            wanted = (0.1, 0.5, 0.95, 0.999)
            quantiles, self._measured = _product_limit(ordered, wanted)
            self.fastest, self.typical, self.late, self.slowest = quantiles
        doublings = max(0.0, now - self._refreshed_at) / BASELINE_DOUBLES
        growth = 2.0 ** min(doublings, 60)  # a clock may show years when the first are measured
        self.usual = min(self.usual * growth, self.typical)
        if self._measured >= KNOWN:
            known = self.usually_late if self.knows_late else math.inf
            self.usually_late = min(known * growth, self.late)
            self.knows_late = True
        self._refreshed_at = now


def _product_limit(values: list[float], quantiles: tuple[float, ...]) -> tuple[list[float], float]:
    """Quantiles of latencies of which the negative ones are censored: those who were given up at an
    instant share their weight among all that lasted longer. With them, the share of the curve that
    answers have drawn: what lies beyond is only known to take longer."""
    ordered = sorted((abs(value), value < 0) for value in values)
    shares: list[float] = []
    events: list[float] = []
    weight, total, measured = 1.0 / len(ordered), 0.0, 0.0
    for place, (latency, is_censored) in enumerate(ordered):
        left = len(ordered) - place - 1
        if is_censored and left:
            weight *= (left + 1) / left
            continue
        total += weight  # the very last one closes the curve, given up or not
        if not is_censored:
            measured = total
        shares.append(total)
        events.append(latency)
    drawn = [events[min(len(events) - 1, bisect_left(shares, q))] for q in quantiles]
    return drawn, measured
