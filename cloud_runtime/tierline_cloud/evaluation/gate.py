"""What a pair's gate is worth: uncertainty against chance and an oracle, retention, its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.evaluation.agreement import agreement_loss
from tierline_cloud.evaluation.curves import cascade_gains, cheapest_escalation, escalation_curve
from tierline_cloud.evaluation.metrics import ndcg, paired_retention
from tierline_cloud.evaluation.ranking import Ranking

BUDGETS = (0.1, 0.2, 0.5)
RETENTIONS = (0.95, 0.99, 0.995)


def gate_report(edge: Ranking, cloud: Ranking, uncertainty: NDArray[np.float64]) -> dict[str, Any]:
    """Plain values: the edge's retention of NDCG@10 with its interval, the escalation curve of
    L_agree at BUDGETS, and the escalation that reaches RETENTIONS."""
    losses = agreement_loss(edge.top, cloud.top)
    curve = escalation_curve(losses, uncertainty)
    fast, full = ndcg(edge.ranks, 10), ndcg(cloud.ranks, 10)
    if not full.any():
        return {"unmeasurable": "the cloud hits no target: there is nothing to retain"}
    if not losses.any():
        return {"unmeasurable": "the edge serves the cloud's lists: there is nothing to escalate"}
    return {
        "retention": asdict(paired_retention(fast, full)),
        "area_over_random": curve.area_over_random(),
        "budgets": [
            {
                "escalation": gain.escalation,
                "loss": curve.at(gain.escalation),
                "random": float(losses.mean()) * (1 - gain.escalation),
                "retention": gain.retention,
                "pgr": gain.pgr if gain.measurable else None,
            }
            for gain in cascade_gains(fast, full, uncertainty, BUDGETS)
        ],
        "escalation_at_retention": {
            str(keep): cheapest_escalation(fast, full, uncertainty, retention=keep)
            for keep in RETENTIONS
        },
    }


def gate_lines(report: Mapping[str, Any]) -> str:
    """The report for people."""
    if "unmeasurable" in report:
        return str(report["unmeasurable"])
    kept, area = report["retention"], report["area_over_random"]
    lines = [
        f"edge alone keeps {kept['mean']:.1%} [{kept['low']:.1%}, {kept['high']:.1%}] of the "
        f"cloud's NDCG@10; area under the escalation curve {area:.2f} × random"
    ]
    for at in report["budgets"]:
        recovered = "no measurable gap" if at["pgr"] is None else f"{at['pgr']:.0%} of the gap"
        lines.append(
            f"{at['escalation']:.0%} escalated: L_agree {at['loss']:.4f} (random "
            f"{at['random']:.4f}), retention {at['retention']:.1%}, {recovered}"
        )
    prices = report["escalation_at_retention"].items()
    lines.append(
        "to keep " + ", ".join(f"{float(keep):.1%}: escalate {share:.1%}" for keep, share in prices)
    )
    return "\n".join(lines)
