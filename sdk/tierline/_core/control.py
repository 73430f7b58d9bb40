"""Which calls are worth escalating when only a share of them may be. Pure: told each uncertainty.

A call is kept iff its uncertainty is at most the threshold. The tracker moves the threshold so that
the wanted share is escalated whatever the traffic does; the bucket is the cap nobody passes; what
either forces to stay at the edge is counted into the certificate's bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from tierline._config import EscalationPolicy
from tierline.certificate import Certificate, CertificateStatus

if TYPE_CHECKING:
    from tierline._core.shadow import RiskAlarm

SPEND_WINDOW: Final = 1000  # calls over which shares are reported: ±1 point of noise at 10 %
FORCED: Final = "budget"  # the reason an answer gives when the cap kept its call at the edge


class ThresholdTracker:
    """Moves a threshold so that a share ``budget`` of all uncertainties lies above it.

    t ← t + η (e − b), e = 1 when u > t. Then t stays in [−η, 1 + η], and over the T calls of *any*
    sequence |mean e − b| ≤ (1 + 2η)/(ηT). Source: the quantile tracker of Conformal PID
    (Angelopoulos et al. 2023, arXiv 2307.16895); the constant follows by telescoping the update.
    """

    __slots__ = ("_budget", "_step", "threshold")

    def __init__(self, budget: float, *, start: float, step: float) -> None:
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

    @property
    def has_one(self) -> bool:
        """Whether ``withdraw`` would succeed."""
        return self._tokens >= 1.0

    def withdraw(self) -> bool:
        """Spend one escalation if there is one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RecentShare:
    """The share of the last ``size`` calls that something happened to; ``seen`` of them are known
    to be without it when it begins."""

    __slots__ = ("_count", "_marks", "_next", "_seen", "_size")

    def __init__(self, size: int = SPEND_WINDOW, *, seen: int = 0) -> None:
        self._marks = bytearray(size)
        self._size = size
        self._next = 0
        self._seen = seen
        self._count = 0

    def add(self, happened: bool) -> None:
        place, marks = self._next, self._marks
        if happened or marks[place]:
            self._count += happened - marks[place]
            marks[place] = happened
        self._next = place + 1 if place + 1 < self._size else 0
        if self._seen < self._size:
            self._seen += 1

    def add_late(self) -> None:
        """It happened, after all, to one of the calls already added. Calls overlap, so which one is
        not said: the newest it had not happened to is marked."""
        for back in range(1, self._seen + 1):
            place = (self._next - back) % self._size
            if not self._marks[place]:
                self._marks[place] = 1
                self._count += 1
                return

    @property
    def seen(self) -> int:
        """How many of the last calls are known, at most ``size``."""
        return self._seen

    @property
    def share(self) -> float:
        """0.0 before the first call."""
        return self._count / self._seen if self._count else 0.0


class Decision(NamedTuple):
    """What becomes of one call: ``escalate``; the ``threshold`` it was held against; ``reason`` is
    FORCED when it should have been escalated and the cap forbade it, else ""."""

    escalate: bool
    threshold: float
    reason: str


class Claim(NamedTuple):
    """What an answer's certificate was worth when it was given; worked out when asked for.
    ``threshold`` None rests on alpha, a number on the curve."""

    certificate: Certificate
    threshold: float | None
    forced: float
    lost: float
    reasons: tuple[str, ...]

    def status(self) -> CertificateStatus:
        """The same as the caller reads it."""
        return self.certificate.status(
            threshold=self.threshold, forced=self.forced, lost=self.lost, reasons=self.reasons
        )


class EscalationControl:
    """Decides call by call for one edge bundle, and says what its certificate is worth then.

    ``stated`` is the bundle's own threshold. The certificate may come later (``certify``): what is
    forced to the edge is counted from the first call on.
    """

    __slots__ = (
        "_bucket",
        "_demanded",
        "_forced",
        "_lost",
        "_policy",
        "_revoked",
        "_tracker",
        "alarm",
        "certificate",
        "changes",
        "stated",
    )

    def __init__(
        self,
        policy: EscalationPolicy,
        certificate: Certificate | None = None,
        *,
        stated: float | None = None,
        bucket: EscalationBucket | None = None,
    ) -> None:
        """``bucket`` is the cap, when it is shared with other models."""
        self._policy = policy
        self._bucket = bucket or EscalationBucket(policy.ratio, burst=policy.allowance)
        self.stated = stated
        self.certificate = certificate
        self.changes: tuple[str, ...] = ()  # why the certificate is not about what runs
        self.alarm: RiskAlarm | None = None  # watches the bound, when calls are shadowed
        start = certificate.threshold if certificate is not None else stated
        first = 0.5 if start is None else start
        self._tracker = ThresholdTracker(policy.budget, start=first, step=policy.step)
        self._demanded = RecentShare()
        self._forced = RecentShare()
        self._lost: RecentShare | None = None  # from the first loss on
        self._revoked = ""

    # -- calls -------------------------------------------------------------------------------

    def decide(self, uncertainty: float, *, possible: bool = True) -> Decision:
        """Keep or escalate this call, in a mode that moves the threshold. NaN counts as wholly
        uncertain. ``possible`` false: the cloud cannot be asked, and no escalation is spent."""
        threshold = self.threshold
        self._bucket.earn()
        self._tracker.observe(uncertainty)
        wanted = unit(uncertainty) > threshold
        escalate = wanted and possible and self._bucket.withdraw()
        self._demanded.add(wanted)
        self.told(forced=wanted and not escalate)
        return Decision(escalate, threshold, FORCED if wanted and not escalate else "")

    def told(self, *, forced: bool, uncertainty: float | None = None) -> None:
        """One more call, and whether it was kept against the threshold's advice. ``uncertainty``
        lets a threshold that stays where it is know what the budget would make of it."""
        self._forced.add(forced)
        if self._lost is not None:
            self._lost.add(False)
        if uncertainty is not None and self.alarm is not None:
            self._tracker.observe(uncertainty)

    def not_escalated(self) -> None:
        """One of the calls to be escalated got no answer from the cloud (breaker, deadline,
        sovereignty): the edge's was served after all, and counts as forced. Its token stays spent,
        since the cloud may have done the work."""
        self._forced.add_late()

    def lost(self) -> None:
        """One more call, which neither tier answered: what was served may have lost everything."""
        self._forced.add(False)
        if self._lost is None:
            self._lost = RecentShare(seen=self._forced.seen - 1)
        self._lost.add(True)

    # -- what it amounts to ------------------------------------------------------------------

    @property
    def threshold(self) -> float:
        """What the next call is held against."""
        policy, tracked = self._policy, self._tracker.threshold
        if not policy.moves:
            said = self.stated if policy.threshold is None else policy.threshold
            fixed = 1.0 if said is None else said
            return min(fixed, tracked) if self._revoked else fixed
        if policy.mode == "budget_first" or self._revoked:
            return tracked
        demanded = self.stated if self.certificate is None else self.certificate.threshold
        return tracked if demanded is None else min(demanded, tracked)

    @property
    def forced(self) -> float:
        """The share of the last calls kept at the edge against the threshold's advice."""
        return self._forced.share

    @property
    def demanded(self) -> float:
        """The share of the last calls above the threshold, allowed or not, where it moves."""
        return self._demanded.share

    @property
    def overspends(self) -> bool:
        """Whether the last calls demanded more than the budget, by more than chance (3σ)."""
        budget = self._policy.budget
        noise = 3 * math.sqrt(budget * (1 - budget) / SPEND_WINDOW)
        full = self._demanded.seen == SPEND_WINDOW
        return full and self._demanded.share > budget + noise

    @property
    def is_revoked(self) -> bool:
        """Whether an alarm has ended the certificate."""
        return bool(self._revoked)

    def rests_on(self, threshold: float) -> float | None:
        """The curve's point a call held against this threshold rests on; None: it rests on alpha.

        A policy rests on one of the two, each holds with probability 1 − delta: one that never
        keeps what the certified threshold escalates on alpha, one that follows the traffic on the
        curve.
        """
        assert self.certificate is not None, "without a certificate nothing rests on anything"
        follows = self._policy.mode == "budget_first" or self._revoked
        if not follows and threshold <= self.certificate.threshold:
            return None
        return threshold

    def bound(self, threshold: float) -> float:
        """What is promised of a call held against this threshold, before any is forced."""
        assert self.certificate is not None, "without a certificate nothing is promised"
        at = self.rests_on(threshold)
        return self.certificate.alpha if at is None else self.certificate.bound_at(at)

    def revoke(self, reason: str) -> None:
        """Stop relying on the certificate: from now on the whole budget goes to the most uncertain
        calls, and answers say why. Only a new certificate ends it."""
        self._revoked = reason

    def claim(self, threshold: float, reasons: tuple[str, ...] = ()) -> Claim | None:
        """What an answer to a call held against this threshold may say; None without a certificate.
        ``reasons`` are the call's own, why it is not covered."""
        if self.certificate is None:
            return None
        if self._revoked:
            reasons = (self._revoked, *reasons)
        lost = 0.0 if self._lost is None else self._lost.share
        return Claim(
            self.certificate,
            self.rests_on(threshold),
            self._forced.share,
            lost,
            (*self.changes, *reasons) if self.changes else reasons,
        )


def unit(uncertainty: float) -> float:
    """An uncertainty brought into [0, 1]; NaN is 1: whoever does not know, is not certain."""
    return min(1.0, max(0.0, uncertainty)) if uncertainty == uncertainty else 1.0
