"""Runs the commands behind Tierline's promises and prints claim, measured value, bar and verdict.

A command prints its figures as one JSON object on its last line, or writes them to the file that
stands for ``{json}`` in it; ``{folder}`` is an empty folder that is gone afterwards. Exit codes:
0 every bar held, 2 the command line or the file of claims is wrong, 3 a bar was missed or not
measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from claims import BadClaims, Claim, Figures, Outcome, Verdict, choose, judge, parse_claims
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("tierline", "numpy", "msgpack", "httpx", "onnxruntime", "torch", "numba")
# A smaller machine may be this many times slower than the claim says; beyond, the command is hung.
PATIENCE = 5.0
GRACE = 60.0  # seconds on top, for commands that say they take no time
TERMINATE_WITHIN = 10.0  # seconds a command has to end what it started
VERDICT_STYLE = {Verdict.KEPT: "green", Verdict.MISSED: "bold red", Verdict.NOT_MEASURED: "yellow"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    options = _parser().parse_args(argv)
    # Figures for a script own stdout; the table then goes to stderr.
    width = None if sys.stdout.isatty() else 120
    console = Console(stderr=options.json == "-", width=width)
    try:
        document = tomllib.loads(options.file.read_text(encoding="utf-8"))
        chosen = choose(parse_claims(document), options.only)
    except (BadClaims, OSError, tomllib.TOMLDecodeError) as error:
        sys.stderr.write(f"promises: {options.file.name}: {error}\n")
        return 2
    if options.list:
        console.print(_listing(chosen))
        return 0
    try:
        outcomes = measure(chosen, console, options.keep)
    except KeyboardInterrupt:
        sys.stderr.write("promises: interrupted; nothing was recorded.\n")
        return 130
    console.print(_table(outcomes))
    _print_shortfalls(outcomes, console)
    _record(outcomes, options.json, options.only, console)
    return 0 if all(outcome.verdict is Verdict.KEPT for outcome in outcomes) else 3


def measure(chosen: Sequence[Claim], console: Console, keep: Path | None = None) -> list[Outcome]:
    """Run each distinct command once, in the file's order, and judge every claim by its figures.
    What a command leaves in its folder is kept below ``keep``, by the first of its claims."""
    commands = list(dict.fromkeys(claim.command for claim in chosen))
    first = {claim.command: claim.id for claim in reversed(chosen)}
    minutes = {claim.command: claim.minutes for claim in chosen}
    figures: dict[str, Figures] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for position, command in enumerate(commands, start=1):
            about = f"{position}/{len(commands)} about {minutes[command]:g} min: {command}"
            if not console.is_terminal:
                console.print(about, markup=False, highlight=False, soft_wrap=True)
            task = progress.add_task(about)
            limit = minutes[command] * 60 * PATIENCE + GRACE
            place = None if keep is None else keep / first[command]
            figures[command] = run_command(command, limit=limit, keep=place)
            progress.remove_task(task)
    return [judge(claim, figures[claim.command]) for claim in chosen]


def run_command(command: str, *, limit: float, keep: Path | None = None) -> Figures:
    """Run one command from the repository's root for at most ``limit`` seconds; what it left in its
    folder is copied to ``keep``.

    ``python`` as its first word is this interpreter. A command that hangs or is interrupted takes
    everything it started with it: it runs in a process group of its own.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="promises-") as folder:
        path = Path(folder) / "figures.json"
        places = {"{json}": str(path), "{folder}": folder}
        words = [_fill(word, places) for word in shlex.split(command)]
        if words[0] == "python":
            words[0] = sys.executable
        try:
            code, output, errors = _run_group(words, limit)
        except OSError as error:
            return Figures(values={}, trouble=f"the command did not start: {error}")
        except subprocess.TimeoutExpired:
            return Figures(values={}, trouble=f"the command was still running after {limit:.0f} s")
        text = path.read_text(encoding="utf-8") if path.exists() else _last_line(output)
        if keep is not None:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
    seconds = time.monotonic() - started
    # 3 is the house's exit code for a check that did not hold: its figures are what we came for.
    if code not in (0, 3):
        said = _last_line(errors) or _last_line(output) or "it said nothing"
        return Figures(values={}, trouble=f"exit code {code}: {said}", seconds=seconds)
    return _parse_figures(text, seconds)


def _fill(word: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(name, place)
    return word


def _run_group(words: Sequence[str], limit: float) -> tuple[int, str, str]:
    process = subprocess.Popen(
        words, cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        errors="replace",
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException:
        _end_group(process)
        raise
    return process.returncode, output, errors


def _end_group(process: subprocess.Popen[str]) -> None:
    """Ask the command's whole group to end; after a while, end it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.communicate(timeout=TERMINATE_WITHIN)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _parse_figures(text: str, seconds: float) -> Figures:
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        trouble = f"the command's last line is no JSON object: {text[:80]!r}"
        return Figures(values={}, trouble=trouble, seconds=seconds)
    return Figures(values=values, seconds=seconds)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Tierline's promises, as measured here", title_justify="left")
    for name in ("", "claim"):
        table.add_column(name, overflow="fold")
    table.add_column("measured", justify="right")
    table.add_column("bar", justify="right")
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        claim = outcome.claim
        figure = "–" if outcome.measured is None else f"{outcome.measured:.4g} {claim.unit}".strip()
        table.add_row(
            claim.promise, Text(claim.claim), figure, f"{claim.bar} {claim.unit}".strip(),
            Text(outcome.verdict.value, style=VERDICT_STYLE[outcome.verdict]),
        )  # fmt: skip
    return table


def _print_shortfalls(outcomes: Sequence[Outcome], console: Console) -> None:
    short = [outcome for outcome in outcomes if outcome.verdict is not Verdict.KEPT]
    kept = len(outcomes) - len(short)
    console.print(f"{kept} of {len(outcomes)} kept on {_machine_words()}.", highlight=False)
    for outcome in short:
        line = f"falls short: {outcome.claim.id}: {outcome.reason}  [{outcome.claim.command}]"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _listing(claims: Sequence[Claim]) -> Table:
    table = Table()
    for name in ("", "group", "id", "claim", "bar", "minutes"):
        table.add_column(name, overflow="fold")
    for claim in claims:
        bar = f"{claim.bar} {claim.unit}".strip()
        row = (claim.promise, claim.group, claim.id, claim.claim, bar, f"{claim.minutes:g}")
        table.add_row(*map(Text, row))
    return table


def _record(outcomes: Sequence[Outcome], target: str, only: str, console: Console) -> None:
    now = datetime.now(UTC)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "only": only,
        "machine": machine(),
        "versions": _versions(),
        "kept": sum(outcome.verdict is Verdict.KEPT for outcome in outcomes),
        "claims": [_row(outcome) for outcome in outcomes],
    }
    if target == "-":
        sys.stdout.write(json.dumps(record) + "\n")
        return
    # A chosen part must not replace the day's full table.
    name = f"promises-{now.date()}{'-partial' if only else ''}.json"
    path = Path(target) if target else RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    console.print(f"Written to {shown}.", highlight=False)


def _row(outcome: Outcome) -> dict[str, object]:
    claim = outcome.claim
    return {
        "id": claim.id, "promise": claim.promise, "group": claim.group, "claim": claim.claim,
        "command": claim.command, "measured": outcome.measured, "bar": str(claim.bar),
        "unit": claim.unit, "verdict": outcome.verdict.value, "reason": outcome.reason,
    }  # fmt: skip


def machine() -> Mapping[str, object]:
    """Cores, memory and processor of this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
        "cpu": model, "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def _machine_words() -> str:
    size = machine()
    return f"{size['cores']} cores ({size['cpu']}), {size['memory_gib']} GiB"


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make promises",
        description="Measure what Tierline promises and print what falls short.",
        epilog="example:\n  python benchmarks/promises/run.py --only core,demo --json figures.json"
        "\n\nexit codes: 0 all kept, 2 usage, 3 missed or not measured, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="comma list of groups, ids or promises (P1…P7)")
    parser.add_argument("--list", action="store_true", help="show the claims and run nothing")
    parser.add_argument("--json", default="", metavar="PATH", help="where figures go; - for stdout")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep what commands write (raw logs of drills)"
    )
    parser.add_argument("--file", type=Path, default=HERE / "promises.toml", help="the claims")
    return parser


if __name__ == "__main__":
    sys.exit(main())
