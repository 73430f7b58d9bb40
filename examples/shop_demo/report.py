"""From the outcomes of three passes to the figures, the one table, and the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faults import Event
from load import Outcome
from rich import box
from rich.table import Table

PASSES = ("edge only", "tiered", "cloud only")
TIERS = ("edge", "cloud", "client")
KINDS = {  # a dot's kind → its colour and marker; the faint crowd first, the rare on top
    "edge": ("#2a78b8", "o"),
    "cloud": ("#2f9e58", "o"),
    "edge, degraded": ("#e08a1e", "^"),
    "client, degraded": ("#7a4fa3", "s"),
    "failed": ("#c0202c", "X"),
}
OUTAGES = (("cloud cut", "cloud restored"), ("edge-1 killed", "edge-1 ready again"))

Figures = dict[str, Any]  # what json.dumps takes: nested plain values


def figures_of(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of one pass. Latencies are milliseconds as the caller saw them."""
    answered = [one for one in outcomes if not one.failure]
    gains = np.array([one.gain for one in outcomes])
    degraded = Counter(one.reason for one in answered if one.quality == "degraded")
    escalated = [one for one in answered if any(a.kind == "escalation" for a in one.attempts)]
    return {
        "calls": len(outcomes),
        "callers": dict(Counter(one.caller for one in outcomes)),
        "ndcg@10": round(float(gains.mean()), 4),
        "ndcg@10 ±": round(float(1.96 * gains.std() / np.sqrt(len(gains))), 4),
        "tiers": {tier: _tier(answered, tier, len(outcomes)) for tier in TIERS},
        "escalations": {
            "sent": len(escalated),
            "answered by cloud": sum(one.tier == "cloud" for one in escalated),
        },
        "degraded": sum(degraded.values()),
        "degraded by reason": dict(degraded.most_common()),
        "reasons": dict(Counter(one.reason for one in answered).most_common()),
        "failed": len(outcomes) - len(answered),
        "failures": dict(Counter(one.failure for one in outcomes if one.failure).most_common(5)),
    }


def _tier(answered: Sequence[Outcome], tier: str, calls: int) -> Figures:
    times = [one.elapsed * 1000 for one in answered if one.tier == tier]
    if not times:
        return {"answers": 0, "share": 0.0, "p50_ms": None, "p99_ms": None}
    p50, p99 = np.percentile(times, (50, 99))
    return {
        "answers": len(times),
        "share": round(len(times) / calls, 4),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
    }


def table_of(figures: Mapping[str, Figures], title: str) -> Table:
    """The one table: a row a question, a column a pass."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in PASSES:
        table.add_column(name, justify="right", no_wrap=True)
    rows = [_rows(figures[name]) for name in PASSES]
    for label in sorted(rows[1], key=list(rows[1]).index):
        table.add_row(label, *(cells.get(label, "–") for cells in rows))
    return table


def _rows(figures: Figures) -> dict[str, str]:
    """One pass's cells by row label; a tier nobody was answered by leaves its cells out."""
    cells = {
        "calls": f"{figures['calls']}",
        "NDCG@10": f"{figures['ndcg@10']:.4f}",
        "  95 % interval": f"± {figures['ndcg@10 ±']:.4f}",
    }
    for tier, seen in figures["tiers"].items():
        if seen["answers"]:
            cells[f"answered by {tier}"] = f"{seen['share']:.1%}"
            cells[f"  {tier} p50 / p99, ms"] = f"{seen['p50_ms']:.1f} / {seen['p99_ms']:.1f}"
    sent = figures["escalations"]["sent"]
    if sent:
        cells["escalations"] = f"{sent}"
        cells["  answered by the cloud"] = f"{figures['escalations']['answered by cloud']}"
    cells["degraded answers"] = f"{figures['degraded']}"
    for reason, count in figures["degraded by reason"].items():
        cells[f"  {reason}"] = f"{count}"
    return {**cells, "failed calls": f"{figures['failed']}"}


def answers_again(
    outcomes: Sequence[Outcome], events: Sequence[Event], *, after: str, endpoint: str
) -> tuple[float, float] | None:
    """When ``endpoint`` first answered a call made after the event ``after``, and how long after
    it, in seconds; None when it never did."""
    since = next(event.at for event in events if event.label == after)
    ends = [
        one.at + attempt.ended
        for one in outcomes
        for attempt in one.attempts
        if one.at >= since and (attempt.endpoint, attempt.outcome) == (endpoint, "ok")
    ]
    return (min(ends), min(ends) - since) if ends else None


def timeline_of(events: Sequence[Event]) -> str:
    """What was broken and mended when, on one line."""
    return " · ".join(f"{event.at:.1f} s {event.label}" for event in events)


def draw(path: Path, outcomes: Sequence[Outcome], events: Sequence[Event], title: str) -> None:
    """Write a PNG: every call a dot (when, how long, who answered), every outage a band."""
    import matplotlib  # here: half a second that the load must not wait for

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 5), dpi=120, layout="constrained")
    for kind, (colour, marker) in KINDS.items():
        dots = [one for one in outcomes if _kind(one) == kind]
        if dots:
            when, times = [one.at for one in dots], [one.elapsed * 1000 for one in dots]
            label = f"{kind} ({len(dots)})"
            axes.scatter(when, times, s=14, c=colour, marker=marker, label=label, linewidths=0)
    slowest = max(one.elapsed for one in outcomes) * 1000
    axes.set(yscale="log", xlabel="seconds since the load began", ylabel="milliseconds a call")
    axes.set_ylim(top=slowest * 6)  # room above the dots for the events' names
    axes.yaxis.set_major_formatter("{x:g}")
    _mark(axes, events, max(one.at for one in outcomes))
    axes.set_title(title, loc="left", fontsize=10)
    figure.legend(loc="outside right upper", title="answered by")
    axes.grid(axis="y", alpha=0.25)
    figure.savefig(path)
    pyplot.close(figure)


def _kind(outcome: Outcome) -> str:
    if outcome.failure:
        return "failed"
    return outcome.tier + (", degraded" if outcome.quality == "degraded" else "")


def _mark(axes: Any, events: Sequence[Event], end: float) -> None:  # Any: matplotlib is untyped
    at = {event.label: event.at for event in events}
    for began, ended in OUTAGES:
        if began in at:
            axes.axvspan(at[began], at.get(ended, end), color="#888888", alpha=0.13, linewidth=0)
    for event in events:
        axes.axvline(event.at, color="#444444", lw=0.8, ls="--")
        axes.annotate(
            event.label,
            (event.at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -4),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=8,
        )
