"""Full-ranking evaluation: ranks, metrics with intervals, agreement of two tiers' lists, curves."""

from tierline_cloud.evaluation.agreement import agreement_loss, label_loss, overlap_loss, spearman
from tierline_cloud.evaluation.curves import (
    CascadeGain,
    EscalationCurve,
    cascade_gains,
    cheapest_escalation,
    escalation_curve,
)
from tierline_cloud.evaluation.metrics import (
    Interval,
    list_metrics,
    paired_bootstrap,
    paired_retention,
    ranking_metrics,
)
from tierline_cloud.evaluation.pointwise import auc, brier_score, calibration_error, log_loss
from tierline_cloud.evaluation.ranking import Ranking, factor_scores, rank_catalogue
from tierline_cloud.evaluation.sampled import SampledMetricsWarning, sampled_ranks
from tierline_cloud.evaluation.tiers import TierRow, tier_table

__all__ = [
    "CascadeGain",
    "EscalationCurve",
    "Interval",
    "Ranking",
    "SampledMetricsWarning",
    "TierRow",
    "agreement_loss",
    "auc",
    "brier_score",
    "calibration_error",
    "cascade_gains",
    "cheapest_escalation",
    "escalation_curve",
    "factor_scores",
    "label_loss",
    "list_metrics",
    "log_loss",
    "overlap_loss",
    "paired_bootstrap",
    "paired_retention",
    "rank_catalogue",
    "ranking_metrics",
    "sampled_ranks",
    "spearman",
    "tier_table",
]
