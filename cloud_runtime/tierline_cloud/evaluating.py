"""What `tierline evaluate` does: serve every user from both bundles and say what the pair is worth.

Where the edge's bundle names the users its router and threshold never saw, only they are judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused, ConfigurationError
from tierline_cloud.carrying import edge_scores
from tierline_cloud.certified import certificate_claim
from tierline_cloud.data import (
    LEAVE_ONE_OUT,
    Sequences,
    Split,
    group_users,
    pad_left,
    read_interactions,
    split_by,
)
from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation import (
    Ranking,
    agreement_loss,
    paired_bootstrap,
    rank_catalogue,
    ranking_metrics,
    sampled_ranks,
    spearman,
    tier_table,
)
from tierline_cloud.evaluation.curves import EscalationCurve, cheapest_escalation
from tierline_cloud.evaluation.gate import gate_report
from tierline_cloud.evaluation.gates import compare_gates, gates_document, list_signals
from tierline_cloud.evaluation.metrics import ndcg, paired_retention
from tierline_cloud.evaluation.page import page
from tierline_cloud.evaluation.plots import Pictures, draw
from tierline_cloud.evaluation.prices import Prices, read_prices
from tierline_cloud.evaluation.ranking import ScoreUsers
from tierline_cloud.evaluation.temperature import Chances, fit_chances, reliability
from tierline_cloud.export import EdgeSession
from tierline_cloud.factory import served_states
from tierline_cloud.loading import item_table, load_cloud, sequence_of
from tierline_cloud.models.blend import blended
from tierline_cloud.training.loop import hidden_states
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.certified import chances_of
from tierline_serving.signing import Trust

Floats = NDArray[np.float64]

GAPS = (0.5, 0.8, 0.95)  # shares of the gap to recover: CPT in RouteLLM's words
FITTED_ON = 4000  # users of a temperature and floor: more change the third digit


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """The command line of `tierline evaluate`."""

    edge: Path
    cloud: Path
    data: Path
    kind: str | None
    keys: tuple[Path, ...]
    allow_unsigned: bool
    threads: int
    sampled: bool = False  # also the 99-negatives protocol, with its warning
    split: str = LEAVE_ONE_OUT
    prices: Path | None = None
    plots: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What both tiers answer to every user of the data."""

    edge: Bundle
    cloud: Bundle
    histories: Sequences
    targets: Ids
    edge_scores: ScoreUsers
    cloud_scores: ScoreUsers
    fast: Ranking
    full: Ranking
    uncertainty: Floats

    @property
    def judged(self) -> tuple[Ids, str]:
        """The users to judge by, and in words who they are."""
        everyone = np.arange(len(self.targets))
        said = self.edge.manifest.metrics.get("groups")
        if not isinstance(said, dict) or said.get("users") != everyone.size:
            return everyone, "all users, those of router and threshold among them"
        return group_users(
            everyone.size, seed=int(said["seed"])
        ).report, "nothing was fitted on them"


def evaluate_pair(options: EvaluateOptions) -> tuple[str, dict[str, Any]]:
    """The page, and the same as plain values."""
    prices = Prices() if options.prices is None else read_prices(options.prices)
    served = serve(options)
    users, who = served.judged
    fast, full = served.fast.of(users), served.full.of(users)
    doubt = served.uncertainty[users]
    document: dict[str, Any] = {
        "edge": served.edge.id,
        "cloud": served.cloud.id,
        "users": int(users.size),
        "who": who,
        "tiers": _tiers(fast, full, doubt, _threshold(served.edge), prices),
        "spearman": spearman(doubt, agreement_loss(fast.top, full.top)),
        "cloud_minus_edge": asdict(paired_bootstrap(ndcg(full.ranks, 10), ndcg(fast.ranks, 10))),
        "gate": gate_report(fast, full, doubt),
        "prices": {**asdict(prices), "escalated": prices.escalated},
        "certificate": certificate_claim(served.edge, served.cloud),
        "bytes": {"edge": _sizes(served.edge), "cloud": _sizes(served.cloud)},
        "ladder": served.edge.manifest.metrics.get("ladder"),
        "baselines": served.cloud.manifest.metrics.get("baselines"),
    }
    curves: dict[str, EscalationCurve] = {}
    if "unmeasurable" not in document["gate"]:
        signals = list_signals(served.edge_scores, served.histories)
        chosen = {name: values[users] for name, values in signals.items()}
        rows, curves = compare_gates(fast, full, doubt, chosen)
        document["gates"] = gates_document(rows)
        document["escalation_at_gap"] = _at_gaps(fast, full, doubt)
    document["temperature"] = _temperatures(served, users)
    if options.sampled:
        document["sampled"] = _sampled(served)
    if options.plots is not None:
        pictures = Pictures(curves=curves, document=document, fast=fast, full=full, doubt=doubt)
        document["plots"] = [str(path) for path in draw(pictures, prices, options.plots)]
    return page(document), document


def serve(options: EvaluateOptions) -> Served:
    """Rank the whole catalogue for every user with both bundles."""
    trust = Trust.from_files(options.keys, allow_unsigned=options.allow_unsigned)
    edge, cloud = open_bundle(options.edge, trust), open_bundle(options.cloud, trust)
    check_pair(edge, cloud)
    split = _split(options)
    known, found = sequence_of(edge).items, split.train.n_items
    if found > known:
        raise ConfigurationError(f"the data has item {found}; the bundles know 1..{known}")
    histories = replace(split.test_history, n_items=known)
    rows = item_table(edge)
    session = EdgeSession(edge.model_bytes(), rows, threads=options.threads)
    ids, carried = pad_left(histories, sequence_of(edge).max_history), edge.carried()
    outputs = session.run(ids if carried is None else carried.rows_of(ids))
    doubt = outputs.uncertainty.astype(np.float64)
    fast_scores = edge_scores(
        served_states(outputs.hidden), rows, histories, edge.neighbours(), carried
    )
    model = load_cloud(cloud)
    states = hidden_states(model.network, histories)
    cloud_scores = blended(states, model.table, histories, model.neighbours)
    return Served(
        edge=edge,
        cloud=cloud,
        histories=histories,
        targets=split.test_target,
        edge_scores=fast_scores,
        cloud_scores=cloud_scores,
        fast=rank_catalogue(fast_scores, histories, split.test_target),
        full=rank_catalogue(cloud_scores, histories, split.test_target),
        uncertainty=doubt if carried is None else carried.doubts(list(histories), doubt),
    )


def _split(options: EvaluateOptions) -> Split:
    try:
        return split_by(options.split, read_interactions(options.data, options.kind))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def check_pair(edge: Bundle, cloud: Bundle) -> None:
    """Raises BundleRefused unless the two are an edge and a cloud of one catalogue."""
    for bundle, tier in ((edge, "edge"), (cloud, "cloud")):
        if bundle.manifest.tier != tier or bundle.manifest.kind != "sequence":
            found = f"a {bundle.manifest.tier} bundle of kind {bundle.manifest.kind}"
            raise BundleRefused(
                f"{bundle.path}: expected the {tier} bundle of kind sequence, not {found}"
            )
    if sequence_of(edge).items != sequence_of(cloud).items:
        raise BundleRefused("the two bundles have catalogues of different size")


def _threshold(edge: Bundle) -> float:
    said = edge.manifest.uncertainty
    if said is None or said.threshold is None:
        raise BundleRefused(f"bundle {edge.path}: without an uncertainty threshold nothing tiers")
    return said.threshold


def _tiers(
    fast: Ranking, full: Ranking, doubt: Floats, threshold: float, prices: Prices
) -> list[dict[str, Any]]:
    """The three ways of serving, with intervals and what a thousand calls cost."""
    escalated = doubt > threshold
    ways = {
        "edge only": fast.ranks,
        "tiered": np.where(escalated, full.ranks, fast.ranks),
        "cloud only": full.ranks,
    }
    best, rows = ndcg(full.ranks, 10), []
    for row in tier_table(fast, full, doubt, threshold):
        mine = ndcg(ways[row.name], 10)
        whole = row.name == "cloud only"
        rows.append(
            {
                **asdict(row),
                "ndcg@10": asdict(paired_bootstrap(mine, np.zeros_like(mine))),
                "retention": asdict(paired_retention(mine, best)) if best.any() else None,
                "per_thousand": prices.cloud_only if whole else prices.per_thousand(row.escalation),
            }
        )
    return rows


def _at_gaps(fast: Ranking, full: Ranking, doubt: Floats) -> dict[str, float]:
    """The share to escalate for this share of the gap between the tiers (CPT)."""
    low, high = ndcg(fast.ranks, 10), ndcg(full.ranks, 10)
    found = {}
    for share in GAPS:
        keep = (low.mean() + share * (high.mean() - low.mean())) / high.mean()
        found[str(share)] = cheapest_escalation(low, high, doubt, retention=float(keep))
    return found


def _temperatures(served: Served, users: Ids) -> dict[str, Any]:
    """Each tier's reliability before and after: at the temperature and floor its bundle says, else
    at some fitted here, on users apart from those they are judged on."""
    dealt = np.random.default_rng(0).permutation(users)
    cut = min(FITTED_ON, dealt.size // 2)
    others, judged = dealt[:cut], dealt[cut:]
    found = {}
    for tier, bundle, scores in (
        ("edge", served.edge, served.edge_scores),
        ("cloud", served.cloud, served.cloud_scores),
    ):
        told = chances_of(bundle.manifest)
        if told is not None:
            chances, source = Chances(**told), "its bundle"
        else:
            chances = fit_chances(scores, served.histories, served.targets, others)
            source = f"fitted here on {others.size:,} other users"
        before, after = (
            asdict(reliability(scores, served.histories, served.targets, judged, chances=each))
            for each in (Chances(), chances)
        )
        found[tier] = {"source": source, "before": before, "after": after}
    return found


def _sizes(bundle: Bundle) -> dict[str, int]:
    """Bytes by what they are for."""
    parts = {"model": 0, "tables": 0, "neighbours": 0, "other": 0}
    manifest = bundle.manifest
    known = {path: "tables" for table in manifest.tables.values() for path in table.paths()}
    sequence = sequence_of(bundle)
    if sequence.neighbours is not None:
        known |= dict.fromkeys(sequence.neighbours.paths(), "neighbours")
    if sequence.carried is not None:
        known |= dict.fromkeys(sequence.carried.paths(), "tables")
    if manifest.runtime.entry is not None:
        known[manifest.runtime.entry] = "model"
    for name, file in manifest.files.items():
        parts[known.get(name, "other")] += file.bytes
    return parts


def _sampled(served: Served) -> dict[str, dict[str, float]]:
    pairs = (("edge", served.edge_scores), ("cloud", served.cloud_scores))
    return {
        tier: ranking_metrics(
            sampled_ranks(scores, served.histories, served.targets, allow_sampled=True)
        )
        for tier, scores in pairs
    }
