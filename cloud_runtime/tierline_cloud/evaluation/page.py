"""The one page of `tierline evaluate`, from its plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tierline_cloud.evaluation.gate import gate_lines
from tierline_cloud.tables import certificate_line, grid, ladder_table

Document = Mapping[str, Any]  # Any: plain JSON values

WANTED_ECE = 0.02


def page(document: Document) -> str:
    """Quality, gates, prices, certificate, calibration and compression, in that order."""
    parts = [
        f"edge {document['edge']}, cloud {document['cloud']}\n"
        f"{document['users']:,} users ({document['who']}), whole catalogue ranked, 95 % intervals",
        _quality(document),
        _gates(document),
        _prices(document),
        certificate_line(document["certificate"]),
        "\n".join(_temperature(document)),
        "\n".join(_compression(document)),
    ]
    if "plots" in document:
        parts.append("plots: " + ", ".join(document["plots"]))
    return "\n\n".join(parts)


def _quality(document: Document) -> str:
    currency = document["prices"]["currency"]
    head = ["", "NDCG@10", "of the cloud's", "HR@10", "MRR@10", "L_agree", "escalated",
            f"{currency} a 1,000"]  # fmt: skip
    rows = [_way(row) for row in document["tiers"]]
    known = document["baselines"]
    if isinstance(known, Mapping):
        for name, label in (("popularity", "popularity*"), ("item_knn", "item-kNN*")):
            found = known[name]
            figures = [f"{found[key]:.4f}" for key in ("hr@10", "mrr@10")]
            rows.append([label, f"{found['ndcg@10']:.4f}", "", *figures, "", "", ""])
    table = grid(head, rows)
    return f"{table}\n* as the cloud's bundle says, all users" if known else table


def _way(row: Document) -> list[str]:
    metrics, kept = row["metrics"], row["retention"]
    return [
        row["name"],
        f"{_range(row['ndcg@10'], 4)}",
        "" if kept is None else _percent(kept),
        f"{metrics['hr@10']:.4f}",
        f"{metrics['mrr@10']:.4f}",
        f"{row['agreement_loss']:.4f}",
        f"{row['escalation']:.1%}",
        f"{row['per_thousand']:.3g}",
    ]


def _gates(document: Document) -> str:
    if "gates" not in document:
        return gate_lines(document["gate"])
    head = ["gate", "Spearman", "area / random", "L_agree at 20 %", "escalated for 99 %"]
    rows = [
        [
            gate["name"],
            f"{gate['spearman']:+.2f}",
            f"{gate['area_over_random']:.2f}",
            f"{gate['loss_at_20']:.4f}",
            f"{gate['escalation_at_99']:.1%}",
        ]
        for gate in document["gates"]
    ]
    return f"{gate_lines(document['gate'])}\n\n{grid(head, rows)}"


def _prices(document: Document) -> str:
    if "gates" not in document:
        return "cost at a wanted quality: nothing to measure"
    prices = document["prices"]

    def price(share: float) -> str:
        return f"{1000 * (prices['edge_call'] + share * prices['escalated']):.3g}"

    kept = document["gate"]["escalation_at_retention"].items()
    gaps = document["escalation_at_gap"].items()
    head = ["for", "escalate", f"{prices['currency']} a 1,000"]
    rows = [
        [f"{float(keep):.1%} of the cloud", f"{share:.1%}", price(share)] for keep, share in kept
    ]
    rows += [[f"{float(gap):.0%} of the gap", f"{share:.1%}", price(share)] for gap, share in gaps]
    return grid(head, rows)


def _temperature(document: Document) -> Iterator[str]:
    for tier, found in document["temperature"].items():
        before, after = found["before"], found["after"]
        verdict = "kept" if after["ece_top1"] <= WANTED_ECE else "MISSED"
        best = f"{before['ece_top1']:.4f} → {after['ece_top1']:.4f}"
        ten = f"{before['ece_top10']:.4f} → {after['ece_top10']:.4f}"
        yield (
            f"{tier}: temperature {after['temperature']:.3f}, floor {after['floor']:.2f} "
            f"({found['source']}); ECE of the best item {best} (≤ {WANTED_ECE:g}: {verdict}), of "
            f"the first ten {ten}; NLL {before['nll']:.3f} → {after['nll']:.3f} "
            f"({after['users']:,} users)"
        )


def _compression(document: Document) -> Iterator[str]:
    sizes = document["bytes"]
    whole = {tier: sum(parts.values()) for tier, parts in sizes.items()}
    served = {
        tier: parts["model"] + parts["tables"] + parts.get("neighbours", 0)
        for tier, parts in sizes.items()
    }
    for tier, parts in sizes.items():
        shares = ", ".join(f"{name} {size / 1e3:,.0f} kB" for name, size in parts.items())
        yield f"{tier} bundle: {whole[tier] / 1e3:,.0f} kB ({shares})"
    yield f"the edge's model and tables are {served['cloud'] / served['edge']:.1f} times smaller"
    if document["ladder"]:
        yield ladder_table(document["ladder"])
    else:
        yield "no compression ladder in the bundle: `tierline compress` climbs it"


def _range(value: Document, digits: int) -> str:
    low, high = f"{value['low']:.{digits}f}", f"{value['high']:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{low}, {high}]"


def _percent(value: Document) -> str:
    return f"{value['mean']:.1%} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
