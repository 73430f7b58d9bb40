"""What the subcommands of `tierline drill` do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tierline.cli import EXIT_DONE, EXIT_REFUSED
from tierline_drills.errors import DrillError
from tierline_drills.page import Chapter, page
from tierline_drills.records import Log, read_log
from tierline_drills.report import Report
from tierline_drills.report import report as report_of


def report(options: argparse.Namespace) -> int:
    """Compute the reports of raw logs again; exit code 3 when a bar was missed."""
    logs = [load_log(path) for path in options.logs]
    reports = [report_of(log) for log in logs]
    if options.json is not None:
        write_json(options.json, reports)
    if options.html is not None:
        write_page(options.html, options.title, logs, reports)
    for one in reports:
        say(sentence(one))
    expected = [one["passed"] is not one["drill"]["negative"] for one in reports]
    return EXIT_DONE if all(expected) else EXIT_REFUSED


def load_log(path: Path) -> Log:
    """The raw log in a file. Raises DrillError naming it."""
    try:
        with path.open(encoding="utf-8") as lines:
            return read_log(lines)
    except OSError as error:
        raise DrillError(f"cannot read the log {path}: {error}") from error


def write_json(path: Path, reports: Sequence[Report]) -> None:
    """All reports as one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(reports), indent=1) + "\n", encoding="utf-8")


def write_page(path: Path, title: str, logs: Sequence[Log], reports: Sequence[Report]) -> None:
    """One page: repeats, negative controls and predictions stand with the drill of their id."""
    from tierline_drills.plots import draw

    chapters: list[Chapter] = []
    names = list(dict.fromkeys(log.drill.id for log in logs))
    for name in names:
        pairs = [(log, one) for log, one in zip(logs, reports, strict=True) if log.drill.id == name]
        real = [p for p in pairs if not p[0].drill.negative and not p[0].drill.predicted]
        negative = next((one for log, one in pairs if log.drill.negative), None)
        predicted = next((one for log, one in pairs if log.drill.predicted), None)
        if real:
            (first, shown), *others = real
            repeats = tuple(one for _, one in others)
            chapters.append(
                Chapter(
                    report=shown,
                    picture=draw(first),
                    predicted=predicted,
                    negative=negative,
                    repeats=repeats,
                )
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(title, chapters), encoding="utf-8")


def sentence(found: Report) -> str:
    """One drill in a few lines: verdict, then each bar."""
    drill = found["drill"]
    kind = " (negative control)" if drill["negative"] else ""
    kind += " (simulated)" if drill["predicted"] else ""
    verdict = "passed" if found["passed"] else "FAILED"
    lines = [f"{drill['title']}{kind}: {verdict}"]
    for row in found["bars"]:
        value = "not measured" if row["value"] is None else f"{row['value']:.4g}"
        lines.append(f"  {'holds ' if row['holds'] else 'MISSED'}  {row['bar']}   ({value})")
    lines += [f"  stopped: {why}" for why in found["stopped"]]
    return "\n".join(lines)


def say(text: str) -> None:
    """A line for the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
