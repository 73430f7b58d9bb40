"""Plots goodput and load through a short loss of capacity, for each protection a client can have.

The simulation runs in virtual time: the figures depend on the seeds alone, not on this machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from tierline.testing.metastability import (
    COMPUTE,
    HEALED,
    LOAD,
    LOSS_AT,
    LOSS_FOR,
    VARIANTS,
    WORKERS,
    Timeline,
    Variant,
    experiment,
)

HERE = Path(__file__).resolve().parent
ENDPOINTS = 2
LINES = ("-", "--", "-", "--", "-")  # two variants may lie on one another
BAR = 3.0  # seconds after the capacity is back


def main() -> int:
    """Run one command line; returns the exit code: 3 when a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/metastability/run.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--seconds", type=int, default=16, help="virtual seconds (default: 16)")
    parser.add_argument("--plot", default=HERE / "metastability.png", help="where the PNG goes")
    parser.add_argument("--no-plot", action="store_true", help="figures only")
    parser.add_argument("--json", help="write the figures to this file; '-': as the last line")
    options = parser.parse_args()
    runs = {
        variant: [
            experiment(variant, seed=seed, endpoints=ENDPOINTS, seconds=options.seconds)
            for seed in range(options.seeds)
        ]
        for variant in VARIANTS
    }
    figures = _figures(runs, options.seconds)
    for line in _lines(runs):
        print(line)
    if not options.no_plot:
        _plot(runs, Path(options.plot))
        print(f"plot: {options.plot}")
    if options.json == "-":
        print(json.dumps(figures))
    elif options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    kept = figures["protected_heals_after_s"] <= BAR and figures["unprotected_healed"] == 0
    return 0 if kept else 3


def _figures(runs: dict[Variant, list[Timeline]], seconds: int) -> dict[str, object]:
    """What the promises quote, and each variant's seconds. A run that never heals took for ever:
    its figure is the length of the run."""
    never = seconds - LOSS_AT - LOSS_FOR
    worst = {
        variant.name: max(never if t.healed_after is None else t.healed_after for t in timelines)
        for variant, timelines in runs.items()
    }
    return {
        "protected_heals_after_s": worst["budget + expired work dropped"],
        "shipped_heals_after_s": worst["Tierline as it ships"],
        "unprotected_healed": sum(t.healed_after is not None for t in runs[VARIANTS[0]]),
        "offered_per_s": LOAD * ENDPOINTS * WORKERS / COMPUTE,
        "python": platform.python_version(),
        "variants": {
            variant.name: [
                {"seed": t.seed, "healed_after_s": t.healed_after, "good": t.good}
                for t in timelines
            ]
            for variant, timelines in runs.items()
        },
    }


def _lines(runs: dict[Variant, list[Timeline]]) -> list[str]:
    lines = [f"{'variant':36s} {'healed after (each seed)':28s} {'attempts a call, peak':>22s}"]
    for variant, timelines in runs.items():
        healed = ", ".join(
            "never" if t.healed_after is None else f"{t.healed_after:.0f} s" for t in timelines
        )
        peak = max(max(t.attempts) for t in timelines)
        lines.append(f"{variant.name:36s} {healed:28s} {peak:22.2f}")
    return lines


def _plot(runs: dict[Variant, list[Timeline]], path: Path) -> None:
    """Two panels over virtual seconds: calls answered in time, attempts for each call."""
    import matplotlib as mpl

    mpl.use("Agg")  # no window: a file
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6.5), sharex=True)
    for line, (variant, timelines) in zip(LINES, runs.items(), strict=True):
        seconds = [i + 0.5 for i in range(len(timelines[0].good))]
        for axes, series in (
            (upper, [100 * g for g in _mean(timelines, "good")]),
            (lower, _mean(timelines, "attempts")),
        ):
            axes.plot(seconds, series, line, marker="o", markersize=3, label=variant.name)
    for axes in (upper, lower):
        axes.axvspan(LOSS_AT, LOSS_AT + LOSS_FOR, color="0.9", label="80 % of the workers gone")
        axes.grid(alpha=0.3)
    upper.set_ylabel("answered in time, %")
    upper.axhline(100 * HEALED, color="0.5", linewidth=0.8, linestyle=":")
    lower.set_ylabel("attempts a call")
    lower.set_xlabel("virtual seconds")
    upper.set_title("Two seconds of lost capacity at 90 % load")
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mean(timelines: Sequence[Timeline], name: str) -> list[float]:
    return [mean(values) for values in zip(*(getattr(t, name) for t in timelines), strict=True)]


if __name__ == "__main__":
    sys.exit(main())
