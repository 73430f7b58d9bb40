"""How many small changes to the core do its tests notice? A random sample of mutants, one by one.

Each mutant is a copy of the SDK with one operator, comparison, constant or condition of `_core`
changed. The core's own tests, those of field rules and shells, and the simulator's run against it;
a failure kills it. The tests run once without any change, which must pass, to learn what each
takes and which lines it reaches (--map keeps that); against a mutant the short ones that reach it
run first. Survivors are listed: each is a missing test, or a change that means nothing. What is
known to mean nothing stands in equivalent.toml, each with its reason, and is not drawn.
A long sample is made in pieces: --log keeps the verdicts, and the next piece goes on from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from pathlib import Path
from random import Random
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutants import ROOT, Place, all_places, without_equivalent
from trial import Tests, Verdict, try_mutant


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/mutation/run.py --mutants 100 --jobs 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mutants", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin none after this long")
    parser.add_argument("--seed", type=int, default=1, help="which sample is drawn")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once (default: 1)")
    parser.add_argument("--only", default="", help="a module, e.g. breaker.py")
    parser.add_argument("--log", type=Path, help="go on from the verdicts in this file, add to it")
    parser.add_argument("--map", type=Path, help="what the tests reach: read from or kept here")
    parser.add_argument("--json", help="write the figures to this file (-: print them only)")
    options = parser.parse_args()
    started = time.monotonic()
    every = [place for place in all_places() if options.only in place.module]
    Random(options.seed).shuffle(every)  # first: a new equivalent leaves the others in the sample
    places = without_equivalent(every)
    sample = places[: options.mutants]
    known = _read(options.log)
    left = [place for place in sample if place.name not in known]
    if left:
        tests = Tests.measured(options.map)
        until = started + 60 * options.minutes
        known |= _tried(left, tests, jobs=options.jobs, until=until, log=options.log)
    verdicts = [known[place.name] for place in sample if place.name in known]
    figures = _figures(verdicts, len(places), len(every) - len(places))
    figures |= {"seed": options.seed, "commit": _commit()}
    print(json.dumps({**figures, "survivors": len(verdicts) - int(str(figures["killed"]))}))
    if options.json and options.json != "-":  # they are the last line above
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return 0


def _tried(
    places: list[Place], tests: Tests, *, jobs: int, until: float, log: Path | None
) -> dict[str, Verdict]:
    """The verdicts by name; none is begun after ``until``, and whatever is begun is finished."""
    verdicts: dict[str, Verdict] = {}
    writing = Lock()

    def one(place: Place) -> None:
        if time.monotonic() > until:
            return
        verdict = try_mutant(place, tests)
        with writing:
            verdicts[place.name] = verdict
            if log is not None:
                with log.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(verdict, ensure_ascii=False) + "\n")
            state = "killed" if verdict.killed else "SURVIVED"
            by = verdict.by.rpartition("/")[2]
            print(f"{state:9s} {verdict.name} ({verdict.seconds:.1f} s) {by}", flush=True)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        list(pool.map(one, places))
    return verdicts


def _commit() -> str:
    """Which commit the core and its tests are of, "" outside of a checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def _read(log: Path | None) -> dict[str, Verdict]:
    if log is None or not log.exists():
        return {}
    lines = log.read_text("utf-8").splitlines()
    return {verdict.name: verdict for verdict in (Verdict(*json.loads(line)) for line in lines)}


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
        "seconds_a_mutant": round(sum(verdict.seconds for verdict in verdicts) / tried, 1),
        "survivors": [verdict.name for verdict in verdicts if not verdict.killed],
    }


if __name__ == "__main__":
    sys.exit(main())
