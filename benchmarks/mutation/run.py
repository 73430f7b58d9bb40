"""How many small changes to the core do its tests notice? A random sample of mutants, one by one.

Each mutant is a copy of the SDK with one operator, comparison, constant or condition of `_core`
changed. The core's own tests, those of field rules and shells, and the simulator's run against it;
a failure kills it. Survivors are listed: each is a missing test, or a change that means nothing.
What is known to mean nothing stands in equivalent.toml, each with its reason, and is not drawn.
A long sample is made in pieces: --log keeps the verdicts, and the next piece goes on from there.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
CORE = ROOT / "sdk" / "tierline" / "_core"
EQUIVALENT = Path(__file__).resolve().parent / "equivalent.toml"
TESTS = (
    ("tests/simulation/test_seeds.py",),
    ("tests/sdk/core", *sorted(f"tests/sdk/{p.name}" for p in ROOT.glob("tests/sdk/test_sov*.py"))),
    ("tests/contract/shells",),
    ("tests/simulation",),
)
NOT_DECISIONS = {"__init__.py", "explain.py", "findings.py"}  # words about configurations
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}


class Place(NamedTuple):
    """One node of one module that can be changed."""

    module: str
    number: int  # of the node, in the order ast.walk finds it
    line: int
    what: str
    code: str  # the line, as it stands

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line} {self.what}"


class Verdict(NamedTuple):
    """What became of one mutant."""

    name: str
    killed: bool
    seconds: float


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/mutation/run.py --mutants 100",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mutants", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin none after this long")
    parser.add_argument("--seed", type=int, default=1, help="which sample is drawn")
    parser.add_argument("--only", default="", help="a module, e.g. breaker.py")
    parser.add_argument("--log", help="go on from the verdicts in this file, and add to them")
    parser.add_argument("--json", help="write the figures to this file (-: print them only)")
    options = parser.parse_args()
    every = [place for place in all_places() if options.only in place.module]
    places = without_equivalent(every)
    Random(options.seed).shuffle(places)
    sample = places[: options.mutants]
    known = _read(options.log)
    started = time.monotonic()
    for place in sample:
        if place.name in known:
            continue
        if time.monotonic() - started > 60 * options.minutes:
            break
        last = known[place.name] = _try(place)
        if options.log:
            with Path(options.log).open("a", encoding="utf-8") as log:
                log.write(json.dumps(last) + "\n")
        state = "killed" if last.killed else "SURVIVED"
        print(f"{state:9s} {place.name} ({last.seconds:.1f} s)", flush=True)
    verdicts = [known[place.name] for place in sample if place.name in known]
    figures = _figures(verdicts, len(places), len(every) - len(places))
    print(json.dumps({**figures, "survivors": len(verdicts) - int(str(figures["killed"]))}))
    if options.json and options.json != "-":  # they are the last line above
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return 0


def all_places() -> Iterator[Place]:
    """Every change that could be made to the core."""
    for path in sorted(CORE.glob("*.py")):
        if path.name in NOT_DECISIONS:
            continue
        source = path.read_text("utf-8")
        lines = source.splitlines()
        for number, node in enumerate(ast.walk(ast.parse(source))):
            what = _changed(node)
            if what:
                line = getattr(node, "lineno", 1)
                yield Place(path.name, number, line, what, lines[line - 1].strip())


def without_equivalent(places: list[Place]) -> list[Place]:
    """Those that may mean something. Raises LookupError for an entry that speaks of no place, so
    that the list cannot outlive the code it is about."""
    known = {
        (entry["module"], entry["code"], what)
        for entry in tomllib.loads(EQUIVALENT.read_text("utf-8"))["mutant"]
        for what in entry["what"]
    }
    dead = known - {(place.module, place.code, place.what) for place in places}
    if dead and len({place.module for place in places}) > 1:
        raise LookupError(f"equivalent.toml speaks of what is not there: {sorted(dead)}")
    return [p for p in places if (p.module, p.code, p.what) not in known]


def _read(log: str | None) -> dict[str, Verdict]:
    if log is None or not Path(log).exists():
        return {}
    lines = Path(log).read_text("utf-8").splitlines()
    return {verdict.name: verdict for verdict in (Verdict(*json.loads(line)) for line in lines)}


def _changed(node: ast.AST, *, change: bool = False) -> str:
    """What would change in this node, or "" when nothing can; ``change`` does it."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other = COMPARISONS[type(op)]
            if change:
                node.ops = [other()]
            return f"{type(op).__name__} → {other.__name__}"
        case ast.BoolOp():
            other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
            what = f"{type(node.op).__name__} → {other_op.__name__}"
            if change:
                node.op = other_op()
            return what
        case ast.BinOp() if type(node.op) in OPERATORS:
            operator = OPERATORS[type(node.op)]
            what = f"{type(node.op).__name__} → {operator.__name__}"
            if change:
                node.op = operator()
            return what
        case ast.Constant(value=bool(value)):
            if change:
                node.value = not value
            return f"{value} → {not value}"
        case ast.Constant(value=int(number)):
            if change:
                node.value = number + 1
            return f"{number} → {number + 1}"
        case ast.If() | ast.IfExp():
            if change:
                node.test = ast.UnaryOp(ast.Not(), node.test)
            return "if → if not"
        case _:
            return ""


def _try(place: Place) -> Verdict:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "tierline"
        shutil.copytree(CORE.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        path = package / "_core" / place.module
        tree = ast.parse(path.read_text("utf-8"))
        _changed(list(ast.walk(tree))[place.number], change=True)
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)), "utf-8")
        killed = any(_fails(tests, Path(folder)) for tests in TESTS)
    return Verdict(place.name, killed, time.monotonic() - started)


def _fails(tests: tuple[str, ...], folder: Path) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(folder), "TIERLINE_SEEDS": "150"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    skip = "not nightly" if tests != ("tests/simulation",) else "not nightly and not slow"
    try:
        done = subprocess.run(
            [*command, "-m", skip, "--deselect", "tests/simulation/test_planted_bugs.py"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def _figures(verdicts: list[Verdict], possible: int, equivalent: int) -> dict[str, object]:
    """The score with its 95 % interval (Wilson), and who survived."""
    tried = max(1, len(verdicts))
    killed = sum(verdict.killed for verdict in verdicts)
    share, z = killed / tried, 1.96
    middle = (share + z * z / (2 * tried)) / (1 + z * z / tried)
    spread = z * sqrt(share * (1 - share) / tried + z * z / (4 * tried**2)) / (1 + z * z / tried)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "possible": possible,
        "equivalent": equivalent,
        "tried": len(verdicts),
        "killed": killed,
        "score": round(share, 3),
        "interval": [round(middle - spread, 3), round(middle + spread, 3)],
        "survivors": [verdict.name for verdict in verdicts if not verdict.killed],
    }


if __name__ == "__main__":
    sys.exit(main())
