"""Pictures of a pair: loss left and quality kept by escalation, cost, and reliability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline import MissingExtra
from tierline_cloud.evaluation.curves import EscalationCurve
from tierline_cloud.evaluation.gates import ORACLE, OURS, RANDOM
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.evaluation.prices import Prices
from tierline_cloud.evaluation.ranking import Ranking

Floats = NDArray[np.float64]
Axes = Any  # matplotlib's classes are untyped

POINTS = 201  # of a curve: more cannot be seen
SHOWN = (OURS, "entropy", "margin at 10", RANDOM, ORACLE)
DASHES = {RANDOM: ":", ORACLE: "--"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What there is to draw: curves by gate, the page's values, and both tiers' ranks of the
    judged users with the edge's doubt."""

    curves: Mapping[str, EscalationCurve]
    document: Mapping[str, Any]
    fast: Ranking
    full: Ranking
    doubt: Floats


def draw(pictures: Pictures, prices: Prices, folder: Path) -> list[Path]:
    """Write ``risk-coverage``, ``cost`` and ``reliability``, each as PNG and SVG; the first two
    only for a pair with something to escalate. Raises MissingExtra without matplotlib."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as missing:
        raise MissingExtra("drills", "plots of an evaluation") from missing
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "tierline"  # the same picture is the same file
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawers = {"reliability": _reliability}
    if pictures.curves:
        drawers = {"risk-coverage": _risk, "cost": _cost, **drawers}
    written = []
    for name, drawer in drawers.items():
        figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        drawer(axes, pictures, prices)
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
        plt.close(figure)
    return written


def _risk(axes: Axes, pictures: Pictures, prices: Prices) -> None:
    for name in SHOWN:
        curve = pictures.curves[name]
        line = curve.random if name == RANDOM else curve.residual
        at = np.linspace(0, line.size - 1, POINTS).astype(int)
        axes.plot(100 * at / (line.size - 1), line[at], DASHES.get(name, "-"), label=name)
    threshold = next(row for row in pictures.document["tiers"] if row["name"] == "tiered")
    axes.plot(100 * threshold["escalation"], threshold["agreement_loss"], "ko", label="as shipped")
    claim = pictures.document["certificate"]
    if "alpha" in claim:
        axes.axhline(claim["alpha"], color="grey", linewidth=0.8)
        axes.annotate(f"α = {claim['alpha']:g}", (99, claim["alpha"]), ha="right", va="bottom")
    axes.set(xlabel="calls escalated, %", ylabel="mean L_agree left", xlim=(0, 100), ylim=(0, None))
    axes.set_title("Loss against the cloud's lists, by gate")
    axes.legend()


def _cost(axes: Axes, pictures: Pictures, prices: Prices) -> None:
    low, high = ndcg(pictures.fast.ranks, 10), ndcg(pictures.full.ranks, 10)
    order = np.argsort(-pictures.doubt, kind="stable")
    kept = np.concatenate([[0.0], np.cumsum((high - low)[order])]) / low.size + low.mean()
    at = np.linspace(0, kept.size - 1, POINTS).astype(int)
    shares = at / (kept.size - 1)
    costs = [prices.per_thousand(float(share)) for share in shares]
    retention = 100 * kept / high.mean()
    axes.plot(costs, retention[at], label=OURS)
    axes.plot([costs[0], costs[-1]], [retention[0], retention[-1]], ":", label=RANDOM)
    axes.plot(prices.cloud_only, 100, "ks", label="cloud only")
    for row in pictures.document["tiers"]:
        if row["name"] == "tiered":
            quality = 100 * row["metrics"]["ndcg@10"] / high.mean()
            axes.plot(row["per_thousand"], quality, "ko", label="as shipped")
    axes.axhline(99, color="grey", linewidth=0.8)
    axes.annotate("99 %", (costs[-1], 99), ha="right", va="bottom")
    axes.set(xlabel=f"{prices.currency} a 1,000 calls", ylabel="NDCG@10, % of the cloud's")
    axes.set_title("Quality bought")
    axes.legend(loc="lower right")


def _reliability(axes: Axes, pictures: Pictures, prices: Prices) -> None:
    most = 0.0
    for tier, found in pictures.document["temperature"].items():
        claimed, seen = np.array(found["after"]["bins"]).T
        axes.plot(100 * claimed, 100 * seen, "o-", markersize=4, label=f"{tier}, calibrated")
        most = max(most, float(claimed.max()), float(seen.max()))
    axes.plot([0, 100 * most], [0, 100 * most], ":", color="grey", label="as claimed")
    axes.set(xlabel="claimed chance that the target is among ten, %", ylabel="how often it was, %")
    axes.set_title("Reliability of the first ten, 15 bins of equal mass")
    axes.legend()
