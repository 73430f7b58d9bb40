"""Failover beside nginx and HAProxy: three edge nodes, one killed or frozen for 20 s.

200 calls a second with a deadline of 100 ms, open loop, from two client processes. With a front the
SDK knows one address and does not retry: what is measured is the front. Without one it has its
default settings. Lost: not answered by the edge in time. Slow: over 20 ms from when it was due.

What is not on this machine is not measured, and said so (`apt-get install nginx haproxy`, or unpack
the packages and name the folder in TIERLINE_YARDSTICK).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tierline_drills.commands import SHIPPED, load_log
from tierline_drills.experiment import Experiment, parse_experiment, read_experiment
from tierline_drills.front import environment
from tierline_drills.report import report
from tierline_drills.runner import Runner

WHO = ("tierline", "nginx", "haproxy")
FAULTS = {"killed": "server-crash", "frozen": "frozen-node"}
EDGES = ["edge-1", "edge-2", "edge-3"]


def experiment_of(fault: str, who: str, options: argparse.Namespace, out: Path) -> Experiment:
    """The shipped drill with the yardstick's load, and the front in question."""
    document = dict(read_experiment(SHIPPED / f"{FAULTS[fault]}.yaml").document)
    load: dict[str, Any] = {
        "rate": options.rate,
        "deadline": 0.1,
        "clients": 2,
        "warm": 4,
        "after": 4,
        "mode": "edge_only",
        "keyed": False,
    }
    # Nobody restarts the killed node: a front must do without it.
    fleet: dict[str, Any] = {"nodes": EDGES, "responses": []}
    if who != "tierline":
        fleet["front"] = who
        load["client"] = {"retry": {"attempts": 1}}
    own = {"name": "tierline", "fleet": fleet, "load": load}
    arguments = {"out": str(out), "id": f"{fault}-{who}"}
    if options.work is not None:
        arguments["work"] = str(options.work)
    provider = {"type": "python", "module": "tierline_drills.control", "arguments": arguments}
    for activity in document["method"]:
        activity["pauses"] = {"after": options.seconds if activity.get("pauses") else 0}
    document |= {
        "extensions": [own],
        "controls": [{"name": "drill", "provider": provider}],
        "steady-state-hypothesis": {"title": "", "probes": []},
    }
    return parse_experiment(document)


def measure(fault: str, who: str, options: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """The figures of one run; None when it cannot be had here."""
    journal = Runner(experiment_of(fault, who, options, out)).run()
    if journal["status"] == "skipped":
        sys.stderr.write(f"{who}: not measured: {journal['why']}\n")
        return None
    found = report(load_log(out / f"{fault}-{who}.jsonl"))
    during, all_ = found["availability"], found["latency"]["all"]
    return {
        "calls": during["offered"],
        "lost": during["offered"] - round(during["full"] * during["offered"]),
        "slow": all_["slow"],
        "p50_ms": 1000 * all_["p50"],
        "p99_ms": 1000 * all_["p99"],
        "max_ms": 1000 * all_["max"],
    }


def main() -> int:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=WHO, action="append", help="repeat; default: all three")
    parser.add_argument("--fault", choices=sorted(FAULTS), action="append", help="default: both")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="the fault lasts")
    parser.add_argument("--work", type=Path, help="the shop's folder; default: a temporary one")
    parser.add_argument("--json", default="-", help="where the figures go; - is the last line")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for fault in options.fault or sorted(FAULTS):
            for who in options.only or WHO:
                row = measure(fault, who, options, Path(folder))
                if row is not None:
                    figures[f"{fault}_{who}"] = row
                    cells = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
                    print(f"{fault:<8} {who:<9} {cells}", flush=True)
    document = json.dumps({**figures, "yardstick": bool(environment()) or "installed"})
    if options.json == "-":
        print(document)
    else:
        Path(options.json).write_text(document + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
