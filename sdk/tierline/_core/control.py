"""Which calls are worth escalating when only a share of them may be. Pure: told each uncertainty.

A call is kept iff its uncertainty is at most the threshold. The tracker moves the threshold so that
the wanted share is escalated whatever the traffic does; the bucket is the cap nobody passes; what
either forces to stay at the edge is counted into the certificate's bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from tierline.certificate import Certificate, CertificateStatus, Subject

Mode = Literal["quality_first", "budget_first"]

DEFAULT_STEP: Final = 0.01  # at most 1.02 points off the budget after 10,000 calls
SPEND_WINDOW: Final = 1000  # calls over which shares are reported: ±1 point of noise at 10 %
FORCED: Final = "budget"  # the reason an answer gives when the cap kept its call at the edge


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPolicy:
    """How the escalations are governed.

    ``budget`` is the share of calls to escalate. ``budget_first`` holds it and reports what that
    certifies; ``quality_first`` also escalates whatever the certificate demands and warns when
    that is more. ``cap`` (None: the budget) and ``burst`` bound both: in any run of N calls at
    most cap·N + burst are escalated. ``step`` is how far one call moves the threshold.
    """

    mode: Mode
    budget: float
    cap: float | None = None
    burst: float | None = None  # None: just enough for the cap never to contradict the tracker
    step: float = DEFAULT_STEP

    def __post_init__(self) -> None:
        if self.mode not in ("quality_first", "budget_first"):
            raise ValueError(f"mode must be quality_first or budget_first, got {self.mode!r}")
        if not (0 <= self.budget <= 1 and 0 < self.step <= 1):
            raise ValueError(
                f"expected budget in [0, 1] and step in (0, 1], got {self.budget}, {self.step}"
            )
        if self.cap is not None and not self.budget <= self.cap <= 1:
            raise ValueError(f"cap must lie in [budget, 1], got {self.cap}")
        if self.burst is not None and not 1 <= self.burst < math.inf:
            raise ValueError(f"burst must be at least 1 call, got {self.burst}")


class ThresholdTracker:
    """Moves a threshold so that a share ``budget`` of all uncertainties lies above it.

    t ← t + η (e − b), e = 1 when u > t. Then t stays in [−η, 1 + η], and over the T calls of *any*
    sequence |mean e − b| ≤ (1 + 2η)/(ηT). Source: the quantile tracker of Conformal PID
    (Angelopoulos et al. 2023, arXiv 2307.16895); the constant follows by telescoping the update.
    """

    __slots__ = ("_budget", "_step", "threshold")

    def __init__(self, budget: float, *, start: float, step: float = DEFAULT_STEP) -> None:
        self._budget = budget
        self._step = step
        self.threshold = min(1.0, max(0.0, start))

    def observe(self, uncertainty: float) -> bool:
        """Whether this call lies above the threshold; moves it for the next one. An uncertainty
        outside [0, 1] counts as the nearest end, one that is NaN as 1."""
        wanted = unit(uncertainty) > self.threshold
        self.threshold += self._step * (wanted - self._budget)
        return wanted


class EscalationBucket:
    """At most ``ratio``·N + ``burst`` escalations in any run of N calls; full at the start.

    Earned by calls, not by seconds: at Q calls a second it fills at ratio·Q. Source: the token
    bucket, e.g. RFC 2697.
    """

    __slots__ = ("_burst", "_ratio", "_tokens")

    def __init__(self, ratio: float, *, burst: float) -> None:
        self._ratio = ratio
        self._burst = burst
        self._tokens = burst

    def earn(self) -> None:
        """One more call came in."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Spend one escalation if there is one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RecentShare:
    """The share of the last ``size`` calls that something happened to."""

    __slots__ = ("_count", "_marks", "_next", "_seen")

    def __init__(self, size: int = SPEND_WINDOW) -> None:
        self._marks = bytearray(size)
        self._next = 0
        self._seen = 0
        self._count = 0

    def add(self, happened: bool) -> None:
        self._count += happened - self._marks[self._next]
        self._marks[self._next] = happened
        self._next = (self._next + 1) % len(self._marks)
        self._seen = min(self._seen + 1, len(self._marks))

    def add_late(self) -> None:
        """It happened, after all, to one of the calls already added. Calls overlap, so which one is
        not said: the newest it had not happened to is marked."""
        for back in range(1, self._seen + 1):
            place = (self._next - back) % len(self._marks)
            if not self._marks[place]:
                self._marks[place] = 1
                self._count += 1
                return

    @property
    def is_full(self) -> bool:
        return self._seen == len(self._marks)

    @property
    def share(self) -> float:
        """0.0 before the first call."""
        return self._count / self._seen if self._seen else 0.0


class Decision(NamedTuple):
    """What becomes of one call: ``escalate``; the ``threshold`` it was held against; ``reason`` is
    FORCED when it should have been escalated and the cap forbade it, else ""."""

    escalate: bool
    threshold: float
    reason: str


class EscalationControl:
    """Decides call by call, and says what the certificate is worth under its decisions."""

    def __init__(self, policy: ControlPolicy, certificate: Certificate | None) -> None:
        if policy.mode == "quality_first" and certificate is None:
            raise ValueError("quality_first needs a certificate; without one use budget_first")
        self._policy = policy
        self._certificate = certificate
        cap = policy.budget if policy.cap is None else policy.cap
        # A tracker's run of N calls wants at most b·N + (1 + 2η)/η, and a fixed threshold any
        # number: this burst lets every tracked escalation through and stops the rest.
        burst = (1 + 2 * policy.step) / policy.step + 1 if policy.burst is None else policy.burst
        self._bucket = EscalationBucket(cap, burst=burst)
        start = 0.5 if certificate is None else certificate.threshold
        self._tracker = ThresholdTracker(policy.budget, start=start, step=policy.step)
        self._demanded = RecentShare()
        self._forced = RecentShare()
        self._alarm = ""

    def decide(self, uncertainty: float) -> Decision:
        """Keep or escalate this call. NaN counts as wholly uncertain."""
        threshold = self.threshold
        self._bucket.earn()
        self._tracker.observe(uncertainty)
        wanted = unit(uncertainty) > threshold
        escalate = wanted and self._bucket.withdraw()
        self._demanded.add(wanted)
        self._forced.add(wanted and not escalate)
        return Decision(escalate, threshold, FORCED if wanted and not escalate else "")

    def not_escalated(self) -> None:
        """One of the calls to be escalated got no answer from the cloud (breaker, deadline,
        sovereignty): the edge's was served after all, and counts as forced. Its token stays spent,
        since the cloud may have done the work."""
        self._forced.add_late()

    @property
    def threshold(self) -> float:
        """What the next call is held against."""
        tracked = self._tracker.threshold
        if self._policy.mode == "budget_first" or self._certificate is None or self._alarm:
            return tracked
        return min(self._certificate.threshold, tracked)

    @property
    def demanded(self) -> float:
        """The share of the last calls that lay above the threshold, allowed or not."""
        return self._demanded.share

    @property
    def forced(self) -> float:
        """The share of the last calls kept at the edge against the threshold's advice."""
        return self._forced.share

    @property
    def overspends(self) -> bool:
        """Whether the certificate demands more than the budget, by more than chance (3σ)."""
        budget = self._policy.budget
        noise = 3 * math.sqrt(budget * (1 - budget) / SPEND_WINDOW)
        return self._demanded.is_full and self._demanded.share > budget + noise

    def revoke(self, reason: str) -> None:
        """Stop relying on the certificate: from now on the whole budget goes to the most uncertain
        calls, and answers say why. Only a new certificate ends it."""
        self._alarm = reason

    def status(self, running: Subject) -> CertificateStatus | None:
        """What an answer may say of the bound now; None without a certificate.

        ``quality_first`` never keeps a call that the certified threshold escalates, so it rests on
        alpha; ``budget_first`` follows the traffic and rests on the uniform curve.
        """
        if self._certificate is None:
            return None
        moving = self._policy.mode == "budget_first" or bool(self._alarm)
        return self._certificate.judge(
            running,
            threshold=self.threshold if moving else None,
            forced=self.forced,
            alarm=self._alarm,
        )


def unit(uncertainty: float) -> float:
    """An uncertainty brought into [0, 1]; NaN is 1: whoever does not know, is not certain."""
    return min(1.0, max(0.0, uncertainty)) if uncertainty == uncertainty else 1.0
