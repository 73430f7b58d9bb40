"""What escalating a share of the calls buys: risk–coverage curve, random and oracle beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationCurve:
    """``residual[i]``: the mean loss left when the i most uncertain of n calls are escalated
    (escalated ones lose nothing), i = 0..n, against the ``oracle`` who knows the losses. A random
    gate leaves the straight line from residual[0] to 0."""

    residual: Floats
    oracle: Floats

    @property
    def random(self) -> Floats:
        line: Floats = self.residual[0] * np.linspace(1.0, 0.0, self.residual.size)
        return line

    def at(self, escalation: float) -> float:
        """The mean loss left when this share of calls is escalated (rounded down to calls)."""
        if not 0 <= escalation <= 1:
            raise ValueError(f"escalation must be in [0, 1], got {escalation}")
        return float(self.residual[int(escalation * (self.residual.size - 1))])

    def area(self) -> float:
        """The area under the curve: the mean loss over all budgets (AURC; Geifman & El-Yaniv
        2017, here with escalated calls in the denominator)."""
        return float((self.residual[1:] + self.residual[:-1]).mean() / 2)

    def area_over_random(self) -> float:
        """The area as a share of the random gate's; NaN when nothing is lost at all."""
        return _ratio(self.area(), self.residual[0] / 2)

    def gap_closed(self, escalation: float) -> float:
        """The share of the way from the random gate to the oracle at this budget; NaN where the
        two agree."""
        place = int(escalation * (self.residual.size - 1))
        chance, best = float(self.random[place]), float(self.oracle[place])
        return _ratio(chance - self.at(escalation), chance - best)


def escalation_curve(losses: Floats, uncertainty: Floats) -> EscalationCurve:
    """The curve of one gate. Calls of equal uncertainty are escalated in random order, on average:
    a tied group falls along a straight line. Both arrays are [n], n ≥ 1."""
    if losses.shape != uncertainty.shape or losses.ndim != 1 or not losses.size:
        raise ValueError(f"expected two vectors of one length, got {losses.shape}")
    _, group, counts = np.unique(-uncertainty, return_inverse=True, return_counts=True)
    shared = np.bincount(group, weights=losses) / counts
    return EscalationCurve(
        residual=_left_over(np.repeat(shared, counts)), oracle=_left_over(-np.sort(-losses))
    )


def _left_over(escalated_first: Floats) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(escalated_first)])
    left: Floats = np.maximum(total[-1] - total, 0.0) / escalated_first.size
    return left


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeGain:
    """Quality q of the pair at one escalation rate. ``pgr`` is NaN, and ``measurable`` false, when
    the cloud is not better than the edge by three standard errors: there is no gap to recover."""

    escalation: float
    quality: float
    retention: float
    pgr: float
    measurable: bool


def cascade_gains(
    edge: Floats, cloud: Floats, uncertainty: Floats, escalations: tuple[float, ...]
) -> list[CascadeGain]:
    """Retention = q/q_cloud and PGR = (q − q_edge)/(q_cloud − q_edge) with the most uncertain calls
    escalated. One metric value a user and tier. Source: RouteLLM (arXiv 2406.18665)."""
    gap = cloud - edge
    error = float(gap.std(ddof=1)) / math.sqrt(gap.size) if gap.size > 1 else math.inf
    measurable = float(gap.mean()) >= 3 * error and float(gap.mean()) > 0
    order = np.argsort(-uncertainty, kind="stable")
    served = np.concatenate([[0.0], np.cumsum(gap[order])]) / gap.size + edge.mean()
    gains = []
    for escalation in escalations:
        quality = float(served[int(escalation * gap.size)])
        gains.append(
            CascadeGain(
                escalation=escalation,
                quality=quality,
                retention=_ratio(quality, float(cloud.mean())),
                pgr=_ratio(quality - edge.mean(), gap.mean()) if measurable else math.nan,
                measurable=measurable,
            )
        )
    return gains


def cheapest_escalation(
    edge: Floats, cloud: Floats, uncertainty: Floats, *, retention: float
) -> float:
    """The smallest share of calls whose escalation keeps ``retention`` of the cloud's quality; 1.0
    when no smaller one does. Chosen on the data it is measured on, so it is a little optimistic."""
    order = np.argsort(-uncertainty, kind="stable")
    gap = (cloud - edge)[order]
    served = np.concatenate([[0.0], np.cumsum(gap)]) / gap.size + edge.mean()
    enough = np.flatnonzero(served >= retention * cloud.mean())
    return float(enough[0] / gap.size) if enough.size else 1.0


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else math.nan
