"""What a call gives back: the answer, and a line for each attempt it took."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        "_order",
        "attempts",
        "bundle",
        "certificate",
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
    ) -> None:
        self.scores = scores
        self.items = items
        self.tier = tier
        self.bundle = bundle
        self.quality = quality
        self.reason = reason
        self.uncertainty = uncertainty
        self.certificate: None = None  # no bundle carries a certificate yet; never made up
        self.attempts = attempts
        self.elapsed = elapsed
        self._order: NDArray[np.int64] | None = None

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
