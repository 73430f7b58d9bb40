"""What a further worker costs in memory when all map the same table: proportional set sizes.

A page that n processes share counts one n-th in each; the sum over a family is what it holds.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import bundles

import tierline

ITEMS = 200_000  # rows of 256 float32: 195 MiB
CALLS = 80  # whole-catalogue calls, so that every worker has read every row
MIB = 2**20


def pss(pid: int) -> float:
    """A process's proportional set size in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / MIB


def family_of(process: subprocess.Popen[str]) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, children)]


def measure(place: str, workers: int) -> float:
    """The whole family's proportional set size in MiB, after it has answered."""
    options = ("--port", "0", "--allow-unsigned", "--threads", "1", "--lame-duck", "0")
    command = [sys.executable, "-m", "tierline.cli", "edge", "serve", place, *options]
    process = subprocess.Popen(
        [*command, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.match(r"ready on (http://[\d.:]+) ", process.stdout.readline())
        if found is None:
            raise RuntimeError("the node did not start")
        for _ in range(CALLS):  # a client each: every connection may meet another worker
            with tierline.Client(edge=[found[1]], deadline=20.0) as client:
                client.recommend(bundles.MODEL, query={"history": bundles.QUERY}, k=10)
        return sum(pss(pid) for pid in family_of(process))
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/lifecycle/shared_memory.py --json -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", choices=["-"], help="print the figures as JSON on the last line")
    options = parser.parse_args()
    bundles.ITEMS = ITEMS
    with tempfile.TemporaryDirectory() as folder:
        made = bundles.make(Path(folder), "1", seed=1)
        table = made.bundle.manifest.files["items.npy"].bytes / MIB
        sizes = {workers: measure(str(made.bundle.path), workers) for workers in (1, 2, 4)}
    figures = {
        "table_mib": round(table),
        "pss_mib": {str(workers): round(size) for workers, size in sizes.items()},
        "mib_a_further_worker": round((sizes[4] - sizes[2]) / 2),
        "python": platform.python_version(),
    }
    print(f"table {figures['table_mib']} MiB; all processes together: {figures['pss_mib']} MiB")
    print(f"a further worker adds {figures['mib_a_further_worker']} MiB")
    if options.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
