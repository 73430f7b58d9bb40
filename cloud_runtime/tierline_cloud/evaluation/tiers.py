"""The offline table: what edge alone, both tiers together and the cloud alone would serve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.evaluation.agreement import agreement_loss
from tierline_cloud.evaluation.metrics import ranking_metrics
from tierline_cloud.evaluation.ranking import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRow:
    """One way of serving: its metrics, its mean L_agree against the cloud, its escalation rate."""

    name: str
    metrics: dict[str, float]
    agreement_loss: float
    escalation: float


def tier_table(
    edge: Ranking, cloud: Ranking, uncertainty: NDArray[np.float64], threshold: float
) -> list[TierRow]:
    """Rows ``edge only``, ``tiered`` (the cloud answers where uncertainty > threshold) and
    ``cloud only`` for the same users."""
    escalated = uncertainty > threshold
    tiered = Ranking(
        ranks=np.where(escalated, cloud.ranks, edge.ranks),
        top=np.where(escalated[:, None], cloud.top, edge.top),
    )
    served = (
        ("edge only", edge, 0.0),
        ("tiered", tiered, float(escalated.mean())),
        ("cloud only", cloud, 1.0),
    )
    return [
        TierRow(
            name=name,
            metrics=ranking_metrics(ranking.ranks),
            agreement_loss=float(agreement_loss(ranking.top, cloud.top).mean()),
            escalation=rate,
        )
        for name, ranking, rate in served
    ]
