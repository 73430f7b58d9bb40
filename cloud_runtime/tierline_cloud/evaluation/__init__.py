"""Full-ranking evaluation: ranks, metrics with intervals, agreement of two tiers' lists."""

from tierline_cloud.evaluation.agreement import agreement_loss, spearman
from tierline_cloud.evaluation.metrics import Interval, paired_bootstrap, ranking_metrics
from tierline_cloud.evaluation.ranking import Ranking, factor_scores, rank_catalogue
from tierline_cloud.evaluation.tiers import TierRow, tier_table

__all__ = [
    "Interval",
    "Ranking",
    "TierRow",
    "agreement_loss",
    "factor_scores",
    "paired_bootstrap",
    "rank_catalogue",
    "ranking_metrics",
    "spearman",
    "tier_table",
]
