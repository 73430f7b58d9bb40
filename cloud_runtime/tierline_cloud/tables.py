"""Results as plain text tables: what a person reads at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NETWORKS = (
    ("cloud", "SASRec"),
    ("blend", "SASRec × kNN"),
    ("again", "SASRec, born again"),
    ("ensemble", "both × kNN"),
    ("edge", "edge, from labels"),
    ("distil", "edge, distilled"),
    ("quantize", "edge int8"),
)  # stages and how they are called in the table; the cloud serves both × kNN where there are two

Document = Mapping[str, Any]  # Any: plain JSON values of the stages


def train_table(document: Document) -> str:
    """The models against the baselines on all users, then the tiers on the report's users."""
    stages = document["stages"]
    data = stages["data"]
    models = [
        ("popularity", stages["baselines"]["popularity"]),
        ("item-kNN", stages["baselines"]["item_knn"]),
        *((label, stages[name]["test"]) for name, label in NETWORKS if name in stages),
    ]
    head = f"{data['users']:,} users, {data['items']:,} items, {data['events']:,} events"
    rows = [
        [name, *(f"{m[key]:.4f}" for key in ("ndcg@10", "hr@10", "mrr@10"))] for name, m in models
    ]
    judged = stages["evaluate"]
    return "\n".join(
        [
            head,
            "",
            grid(["test, all users", "NDCG@10", "HR@10", "MRR@10"], rows),
            "",
            tiers_table(judged),
            "",
            _facts(stages),
            certificate_line(document["certificate"]),
            *(f"{tier} bundle: {path}" for tier, path in document["bundles"].items()),
        ]
    )


def tiers_table(judged: Document) -> str:
    """Edge only, tiered and cloud only for the same users."""
    rows = [
        [
            row["name"],
            f"{row['metrics']['ndcg@10']:.4f}",
            f"{row['metrics']['hr@10']:.4f}",
            f"{row['agreement_loss']:.4f}",
            f"{row['escalation']:.1%}",
        ]
        for row in judged["tiers"]
    ]
    head = [f"{judged['users']:,} other users", "NDCG@10", "HR@10", "L_agree", "escalated"]
    return grid(head, rows)


def _facts(stages: Document) -> str:
    gap, knn = stages["evaluate"]["cloud_minus_edge"], stages["evaluate"]["cloud_minus_knn"]
    parity, quantized = stages["export"]["parity"], stages["quantize"]
    return "\n".join(
        [
            *_part(stages),
            f"cloud − edge NDCG@10: {_interval(gap)}; cloud − kNN: {_interval(knn)} (95 %)",
            f"uncertainty: Spearman {stages['evaluate']['spearman']:.2f} with L_agree, "
            f"threshold {stages['calibrate']['threshold']:.4f}",
            f"export: largest difference {parity['largest_difference']:.1e}, same top 10 for "
            f"{parity['same_top10']:.2%}; int8 against float32: L_agree "
            f"{quantized['loss_against_float32']:.4f}; alone against batches: "
            f"{quantized['batch_variance']:.1e}",
        ]
    )


def _part(stages: Document) -> list[str]:
    """What an edge with part of the catalogue carries; nothing of one that has all of it."""
    part = stages.get("carried")
    if part is None:
        return []
    return [
        f"the edge carries {part['items']:,} of {stages['data']['items']:,} items; calls that lost "
        f"more than {part['above']:.3f} of what neighbours say are doubted first"
    ]


def certificate_line(claim: Document) -> str:
    """The certified threshold, and the bound at the one the bundle was given."""
    if "refused" in claim:
        return f"certificate: none; {claim['refused']}"
    status = claim["status"]
    now = "holds" if status["valid"] else "does not hold: " + "; ".join(status["reasons"])
    return (
        f"certificate {claim['id']}: L_agree ≤ {claim['alpha']:g} (δ {claim['delta']:g}, n "
        f"{claim['n']:,}) up to threshold {claim['threshold']:.4f}, which escalates "
        f"{claim['escalation']:.1%}; at the bundle's threshold it {now}"
    )


def ladder_table(document: Document) -> str:
    """One line a rung: what it weighs, what it keeps, how long it takes beside float32."""
    rungs = document["rungs"]
    timed = [point["batch"] for point in rungs[0].get("latency", ())] if rungs else []
    sizes = ["table kB", "graph kB", "neighbours kB", "× table", "× network", "× cloud"]
    kept = ["NDCG@10", "of float32", "of the cloud", "L_agree"]
    head = ["rung", *sizes, *kept, *(f"ms at {batch}" for batch in timed)]
    rows = [_rung_row(rung) for rung in rungs]
    cloud = document["cloud"]
    size = sum(cloud["bytes"].values())
    return "\n".join(
        [
            f"cloud as served: {size / 1e6:.2f} MB, NDCG@10 {cloud['test']['ndcg@10']:.4f} "
            f"({document['judged_users']:,} users); retention with 95 % intervals, L_agree against "
            "the network's own float32 lists, milliseconds / times the float32 control's",
            "",
            grid(head, rows),
        ]
    )


def _rung_row(rung: Document) -> list[str]:
    label = f"{rung['name']} (size-only)" if rung.get("size_only") else rung["name"]
    sizes = rung["bytes"]
    return [
        label,
        f"{sizes['table'] / 1e3:.0f}",
        f"{sizes['graph'] / 1e3:.0f}",
        f"{sizes.get('neighbours', 0) / 1e3:.0f}",
        *(f"{rung[key]:.1f}" for key in ("table_times", "network_times", "cloud_times")),
        f"{rung['test']['ndcg@10']:.4f}",
        _share(rung["own_retention"]),
        _share(rung["retention"]),
        f"{rung['loss_against_float32']:.3f}",
        *(f"{p['rung'] * 1e3:.2f} / {p['ratio']:.2f}" for p in rung.get("latency", ())),
    ]


def _share(value: Document) -> str:
    return f"{value['mean']:.1%} [{value['low'] * 100:.1f}, {value['high'] * 100:.1f}]"


def _interval(value: Document) -> str:
    return f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["─" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
