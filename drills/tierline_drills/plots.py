"""Draws a drill: every call, where the attempts went, and what it did to availability."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tierline import MissingExtra
from tierline_drills.figures import ratio
from tierline_drills.records import EXPERIMENT, Call, Log
from tierline_drills.timeline import Timeline, is_good, timeline

COLOURS = {"full": "#1b6e53", "edge": "#4a90c2", "degraded": "#e0a030", "failed": "#c0392b"}
LINES = (
    ("inject", "fault", "#c0392b"),
    ("detected", "detected", "#8e44ad"),
    ("mitigated", "mitigated", "#2c7fb8"),
    ("cleared", "cleared", "#7f8c8d"),
    ("recovered", "recovered", "#1b6e53"),
)

Axes = Any  # matplotlib's classes are untyped


def draw(log: Log) -> bytes:
    """A PNG of three panels over one time axis. Raises MissingExtra without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtra("drills", "drawing a drill") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    calls, line = log.group(EXPERIMENT), timeline(log)
    figure, axes = plt.subplots(
        3, 1, figsize=(10, 8), sharex=True, height_ratios=(3, 2, 2), constrained_layout=True
    )
    _calls(axes[0], calls, log)
    _attempts(axes[1], calls)
    _shares(axes[2], calls, log)
    _instants(axes, line)
    axes[2].set_xlabel("seconds since the drill began")
    figure.suptitle(log.drill.title + (" (simulated)" if log.drill.predicted else ""), fontsize=11)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=75)
    plt.close(figure)
    return _small(target)


def _small(picture: io.BytesIO) -> bytes:
    """The same PNG in 48 colours, a third of the bytes: a page holds a dozen of them."""
    from PIL import Image  # comes with matplotlib

    small = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(48).save(small, format="png", optimize=True)
    return small.getvalue()


def _calls(axes: Axes, calls: Sequence[Call], log: Log) -> None:
    """Every call as a point: when it was due, how long it took, what came of it."""
    for name, colour in COLOURS.items():
        some = [call for call in calls if _class(call, log) == name]
        if some:
            x, y = [call.due for call in some], [call.latency * 1000 for call in some]
            marker = "x" if name == "failed" else "."
            axes.plot(x, y, marker, color=colour, markersize=4, label=f"{name} ({len(some)})")
    axes.axhline(log.drill.deadline * 1000, color="#999", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms (from when due)")
    if calls:
        axes.legend(loc="upper right", fontsize=8, ncols=4)


def _attempts(axes: Axes, calls: Sequence[Call]) -> None:
    """Attempts a second at each endpoint; broken lines where they failed."""
    sent: dict[str, Counter[int]] = {}
    failed: Counter[int] = Counter()
    for call in calls:
        for tried in call.attempts:
            sent.setdefault(tried.endpoint, Counter())[int(tried.started)] += 1
            failed[int(tried.ended)] += tried.failed
    seconds = range(int(calls[0].due), int(calls[-1].due) + 1) if calls else range(0)
    for name in sorted(sent):
        axes.step(
            [s + 0.5 for s in seconds],
            [sent[name][s] for s in seconds],
            where="mid",
            linewidth=1.2,
            label=name,
        )
    axes.step(
        [s + 0.5 for s in seconds],
        [failed[s] for s in seconds],
        where="mid",
        color="#c0392b",
        linestyle="--",
        linewidth=1.0,
        label="failed",
    )
    axes.set_ylabel("attempts a second")
    axes.legend(loc="upper right", fontsize=7, ncols=6)


def _shares(axes: Axes, calls: Sequence[Call], log: Log) -> None:
    """Availability a second, at any quality and at the intended one; amplification beside it."""
    by_second: dict[int, list[Call]] = {}
    for call in calls:
        by_second.setdefault(int(call.due), []).append(call)
    seconds = sorted(by_second)
    middle = [second + 0.5 for second in seconds]
    good = [[c for c in by_second[s] if is_good(c, log.drill.deadline)] for s in seconds]
    anything = [100 * len(g) / len(by_second[s]) for g, s in zip(good, seconds, strict=True)]
    intended = [
        100 * sum(c.quality != "degraded" for c in g) / len(by_second[s])
        for g, s in zip(good, seconds, strict=True)
    ]
    axes.step(middle, anything, where="mid", color="#1b6e53", label="answered in time, any quality")
    axes.step(middle, intended, where="mid", color="#e0a030", label="… at the intended quality")
    axes.set_ylabel("% of calls")
    axes.set_ylim(-3, 104)
    beside = axes.twinx()
    amplified = [ratio(by_second[s]) or 1.0 for s in seconds]
    beside.step(middle, amplified, where="mid", color="#555", linewidth=0.9, linestyle="--")
    beside.set_ylabel("attempts ÷ asked (dashed)")
    beside.set_ylim(0.9, max(2.0, *amplified) if amplified else 2.0)
    axes.legend(loc="center right", fontsize=8)


def _instants(axes: Sequence[Axes], line: Timeline) -> None:
    """A line for each instant; those closer than a second share one label."""
    labels: list[tuple[float, str, str]] = []
    found = [(getattr(line, name), label, colour) for name, label, colour in LINES]
    for at, label, colour in sorted(one for one in found if one[0] is not None):
        for one in axes:
            one.axvline(at, color=colour, linewidth=1.0, alpha=0.8)
        if labels and at - labels[-1][0] < 1.0:
            first, said, drawn = labels[-1]
            labels[-1] = (first, f"{said} · {label}", drawn)
        else:
            labels.append((at, label, colour))
    for at, label, colour in labels:
        axes[0].annotate(
            label,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            rotation=20,
            fontsize=8,
            color=colour,
            va="bottom",
        )


def _class(call: Call, log: Log) -> str:
    if not is_good(call, log.drill.deadline):
        return "failed"
    return call.quality if call.quality in COLOURS else "degraded"
