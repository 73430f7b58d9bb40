"""What the subcommands of `tierline drill` do."""

from __future__ import annotations

import argparse
import gzip
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

from tierline.cli import EXIT_DONE, EXIT_REFUSED
from tierline_drills.errors import BadExperiment, DrillError
from tierline_drills.experiment import Experiment, read_experiment
from tierline_drills.kubernetes import chaos_mesh
from tierline_drills.page import Chapter, page
from tierline_drills.prediction import predicted
from tierline_drills.records import Line, Log, read_log, write_line
from tierline_drills.repeats import pooled
from tierline_drills.report import Report
from tierline_drills.report import report as report_of
from tierline_drills.runner import Journal, Runner, passed

CONTROL = "tierline_drills.control"
NEGATIVE = "-negative"
SHIPPED = Path(__file__).resolve().parent / "experiments"


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


def run(options: argparse.Namespace) -> int:
    """Carry out experiments on real processes; exit code 3 when one did not do as it must."""
    signal.signal(signal.SIGTERM, _terminated)
    variables = dict(_variable(text) for text in options.set)
    logs: list[Path] = []
    good = True
    for path in _places(options.experiments):
        experiment = read_experiment(path, variables)
        if options.load is not None:
            experiment = experiment.loaded(options.load)
        if options.negative != "only":
            good = _repeat(experiment, path.stem, "", options, logs) and good
        if options.negative != "none":
            negative = experiment.negative()
            good = _repeat(negative, path.stem, NEGATIVE, options, logs) and good
        if options.negative != "only" and experiment.own:
            place = options.out / f"{path.stem}-predicted.jsonl"
            write_log(place, predicted(experiment, path.stem, seed=0))
            logs.append(place)
    if logs:
        _tell(options, logs)
    return EXIT_DONE if good else EXIT_REFUSED


def _tell(options: argparse.Namespace, logs: Sequence[Path]) -> None:
    """Write the reports and the page of these logs."""
    loaded = [load_log(log) for log in logs]
    reports = [report_of(log) for log in loaded]
    write_json(options.out / "reports.json", reports)
    write_page(options.out / "index.html", options.title, loaded, reports)
    say(f"page: {options.out / 'index.html'}")
    if options.json is not None:
        named: dict[str, Any] = {log.stem: one for log, one in zip(logs, reports, strict=True)}
        named |= _pooled(named)
        controls = [one for one in reports if one["drill"]["negative"]]
        named["negative_controls"] = len(controls)
        named["negative_controls_that_passed"] = sum(one["passed"] for one in controls)
        options.json.write_text(json.dumps(named) + "\n", encoding="utf-8")


def _pooled(named: Mapping[str, Report]) -> dict[str, Report]:
    """Of each drill that ran several times, all runs as one report, under the drill's own name."""
    runs: dict[str, list[Report]] = {}
    for name, one in named.items():
        stem, _, number = name.rpartition("-")
        if stem and number.isdigit():
            runs.setdefault(stem, []).append(one)
    return {stem: pooled(ones) for stem, ones in runs.items()}


def _places(names: Sequence[Path]) -> list[Path]:
    """The files meant: a path, the name of a drill that ships, or "core" or "all" of those."""
    places: list[Path] = []
    for name in names:
        shipped = SHIPPED / f"{name}.yaml"
        if str(name) in ("core", "all"):
            tagged = [(path, read_experiment(path)) for path in sorted(SHIPPED.glob("*.yaml"))]
            core = str(name) == "core"
            places += [p for p, e in tagged if not core or "core" in e.document.get("tags", ())]
        else:
            places.append(shipped if not name.suffix and shipped.exists() else name)
    return places


def _repeat(
    experiment: Experiment,
    stem: str,
    suffix: str,
    options: argparse.Namespace,
    logs: list[Path],
) -> bool:
    """Every run of one experiment; whether all did as they must."""
    repeats = options.repeats or int(experiment.own.get("repeats", 1))
    names = [f"{suffix}-{i}" if repeats > 1 else suffix for i in range(1, repeats + 1)]
    return all([_run_once(experiment, stem, name, options, logs) for name in names])


def _run_once(
    experiment: Experiment, stem: str, suffix: str, options: argparse.Namespace, logs: list[Path]
) -> bool:
    """One run; whether it did as it must. Adds its log to ``logs``."""
    given: dict[str, object] = {"out": str(options.out), "id": stem, "name": stem + suffix}
    if options.work is not None:
        given["work"] = str(options.work)
    controls = tuple(
        replace(one, arguments={**one.arguments, **given}) if one.module == CONTROL else one
        for one in experiment.controls
    )
    is_negative = suffix.startswith(NEGATIVE)
    say(f"{experiment.title}{' (negative control)' if is_negative else ''} …")
    journal = Runner(replace(experiment, controls=controls)).run()
    target = options.out / f"{stem}{suffix}.journal.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(journal, indent=1, default=str) + "\n", encoding="utf-8")
    if journal["status"] == "skipped":
        say(f"  skipped: {journal['why']}")
        return True
    place = journal.get("extensions", {}).get("tierline-log")
    if place is None:
        say(f"  {journal['status']}: {journal.get('why', 'the hypothesis held')}")
        return passed(journal)
    logs.append(Path(place))
    found = report_of(load_log(Path(place)))
    say(sentence(found))
    for why in _troubles(journal):
        say(f"  journal: {why}")
    held = bool(found["passed"]) and passed(journal)
    return not held if is_negative else held


def _troubles(journal: Journal) -> list[str]:
    """What went otherwise than planned, for people."""
    found = [f"{journal['status']}: {journal['why']}"] if journal.get("why") else []
    for when in ("before", "after"):
        state = journal["steady_states"][when]
        for row in state["probes"] if state else ():
            if not row["tolerance_met"]:
                value = row.get("exception") or row["output"]
                found.append(f"{when}: {row['activity']['name']} was {value!r}")
    failed = [row for row in journal["rollbacks"] if row["status"] != "succeeded"]
    return found + [f"rollback {r['activity']['name']}: {r['exception']}" for r in failed]


def simulate(options: argparse.Namespace) -> int:
    """Predict what each experiment will measure; prints the figures of every seed."""
    for path in options.experiments:
        experiment = read_experiment(path)
        for seed in range(options.seeds):
            log = predicted(experiment, path.stem, seed)
            if options.out is not None and seed == 0:
                write_log(options.out / f"{path.stem}-predicted.jsonl", log)
            say(f"seed {seed} · {sentence(report_of(log))}")
    return EXIT_DONE


def kubernetes(options: argparse.Namespace) -> int:
    """Print the experiment as one Chaos Mesh workflow (JSON, which kubectl takes)."""
    experiment = read_experiment(options.experiment)
    workflow, refused = chaos_mesh(experiment, options.experiment.stem, options.namespace)
    for why in refused:
        sys.stderr.write(f"tierline drill: {why}\n")
    say(json.dumps(workflow, indent=1))
    return EXIT_DONE


def write_log(path: Path, log: Log) -> None:
    """A whole log as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries: list[Line] = [log.drill, *log.calls, *log.beliefs, *log.events, *log.counts]
    path.write_text("".join(write_line(entry) + "\n" for entry in entries), encoding="utf-8")


def proxy(options: argparse.Namespace) -> int:
    """Serve the chaos proxy's API until signalled."""
    from tierline_drills.proxy.control import run as serve

    serve(options.host, options.port, lambda port: say(f"proxy API on {options.host}:{port}"))
    return EXIT_DONE


def _variable(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign:
        raise BadExperiment(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _terminated(number: int, frame: object) -> Never:
    raise SystemExit(143)  # unwinds every `finally`, as Ctrl-C does


def load_log(path: Path) -> Log:
    """The raw log in a file, compressed when its name ends in .gz. Raises DrillError naming it."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                return read_log(lines)
        with path.open(encoding="utf-8") as lines:
            return read_log(lines)
    except (OSError, EOFError) as error:
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
    if (load := found["load"])["capacity"]:
        lines.append(
            f"  {load['rate']:g} calls a second, {load['share']:.0%} of the {load['capacity']:.0f} "
            "that the fleet carries"
        )
    for row in found["bars"]:
        value = "not measured" if row["value"] is None else f"{row['value']:.4g}"
        lines.append(f"  {'holds ' if row['holds'] else 'MISSED'}  {row['bar']}   ({value})")
    lines += [f"  stopped: {why}" for why in found["stopped"]]
    return "\n".join(lines)


def say(text: str) -> None:
    """A line for the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
