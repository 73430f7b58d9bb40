"""What a call gives back: the answer, and a line for each attempt it took."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tierline.certificate import CertificateStatus

QUALITY_FULL = "full"  # the cloud's full model answered
QUALITY_EDGE = "edge"  # the edge model answered, and was certain enough for the policy
QUALITY_DEGRADED = "degraded"  # something better was wanted and could not be had; see the reason


class Attempt(NamedTuple):
    """One finished try of a call at one endpoint. Times are seconds since the call began."""

    number: int
    kind: str  # "first" | "failover" | "retry" | "hedge" | "escalation"
    tier: str
    endpoint: str
    started: float
    ended: float
    outcome: str  # "ok", "abandoned", or a code of wire.errors / a transport failure's name
    reduced: tuple[str, ...] = ()  # fields this endpoint did not see as they are: "query.user"


class Claim(Protocol):
    """What an answer's certificate was worth when it was given."""

    def status(self) -> CertificateStatus: ...


class Answer:
    """The answer to one call.

    ``scores`` is float32[n], in the candidates' order (``score``) or best first (``recommend``).
    ``items`` is int64[n]: the candidates' ids when they were given as ids, or the recommended
    items; None when candidates were given as features only. ``tier`` is the name of the tier that
    answered, or ``"client"`` for an answer from the client's own fallbacks; ``bundle`` names the
    bundle the scores come from. ``quality`` is ``"full"``, ``"edge"`` or ``"degraded"`` and
    ``reason`` says why this answer and no other.
    """

    __slots__ = (
        "_claim",
        "_order",
        "_status",
        "attempts",
        "bundle",
        "elapsed",
        "items",
        "quality",
        "reason",
        "scores",
        "tier",
        "uncertainty",
    )

    def __init__(
        self,
        scores: NDArray[np.float32],
        items: NDArray[np.int64] | None,
        *,
        tier: str,
        bundle: str,
        quality: str,
        reason: str,
        uncertainty: float | None,
        attempts: tuple[Attempt, ...],
        elapsed: float,
        claim: Claim | None = None,
    ) -> None:
        self.scores = scores
        self.items = items
        self.tier = tier
        self.bundle = bundle
        self.quality = quality
        self.reason = reason
        self.uncertainty = uncertainty
        self.attempts = attempts
        self.elapsed = elapsed
        self._claim = claim
        self._status: CertificateStatus | None = None
        self._order: NDArray[np.int64] | None = None

    @property
    def certificate(self) -> CertificateStatus | None:
        """What was proven of the lists this client serves, and whether it held when this answer was
        given; None while no certificate of the edge's bundle is known (``prepare`` asks for it,
        and so does the first call in the background), and for calls that chose their tier."""
        if self._status is None and self._claim is not None:
            self._status = self._claim.status()
        return self._status

    @property
    def order(self) -> NDArray[np.int64]:
        """Positions of the candidates, best first; ties keep the candidates' order. int64[n]."""
        if self._order is None:
            self._order = np.argsort(-self.scores, kind="stable")
        return self._order

    def top(self, n: int) -> list[tuple[int, float]]:
        """The ``n`` best as (item id, score), or (position, score) when there are no ids."""
        best = self.order[:n]
        names = best if self.items is None else self.items[best]
        return [(int(name), float(self.scores[i])) for name, i in zip(names, best, strict=True)]

    def __repr__(self) -> str:
        return (
            f"<Answer of {len(self.scores)} scores from {self.tier} ({self.quality}: {self.reason})"
            f" in {self.elapsed * 1000:.1f} ms, {len(self.attempts)} attempt(s)>"
        )


class EscalationReport(NamedTuple):
    """How the escalations of one model stand, over its last 1,000 calls.

    ``threshold`` is what the next call is held against; ``demanded`` the share of calls above it
    (None in mode "fixed"), ``forced`` the share kept at the edge all the same. ``overspends``: the
    certificate demands more than the budget, by more than chance. ``log_wealth`` is the alarm's
    (None: nothing is shadowed); it rings at ln(1/δ), and then ``revoked`` stays true.
    """

    mode: str
    bundle: str
    threshold: float
    demanded: float | None
    forced: float
    overspends: bool
    revoked: bool
    log_wealth: float | None
    certificate: CertificateStatus | None
