"""`tierline drill`: run experiments on real processes, and compute a report from any raw log."""

from __future__ import annotations

import argparse
from pathlib import Path

from tierline.cli import Command


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="run | report | …")
    running = actions.add_parser("run", help="carry out experiments; exit code 3 when one fails")
    running.add_argument(
        "experiments",
        nargs="+",
        type=Path,
        metavar="EXPERIMENT",
        help="a file, the name of a drill that ships, core, or all",
    )
    running.add_argument(
        "--out", type=Path, default=Path("drill-results"), help="for logs, reports"
    )
    running.add_argument(
        "--load", type=float, metavar="SHARE", help="of what the fleet carries, measured first"
    )
    running.add_argument("--repeats", type=int, help="runs of each; default: what the file says")
    running.add_argument(
        "--negative", choices=("none", "also", "only"), default="none", help="controls: must fail"
    )
    running.add_argument("--json", type=Path, metavar="PATH", help="write all reports there")
    running.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    running.add_argument("--work", type=Path, help="where bundles and logs of nodes are kept")
    running.add_argument("--title", default="Disaster-recovery drills", help="of the page")
    telling = actions.add_parser("report", help="compute every figure again from raw logs")
    telling.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    telling.add_argument("--json", type=Path, metavar="PATH", help="write the reports there")
    telling.add_argument("--html", type=Path, metavar="PATH", help="write the page there")
    telling.add_argument("--title", default="Disaster-recovery drills", help="of the page")
    predicting = actions.add_parser("simulate", help="the same experiment in the simulator")
    predicting.add_argument("experiments", nargs="+", type=Path, metavar="EXPERIMENT")
    predicting.add_argument("--seeds", type=int, default=5)
    predicting.add_argument("--out", type=Path, help="write the first seed's log there")
    meshing = actions.add_parser("kubernetes", help="the same experiment as Chaos Mesh objects")
    meshing.add_argument("experiment", type=Path, metavar="EXPERIMENT")
    meshing.add_argument("--namespace", default="tierline")
    proxying = actions.add_parser("proxy", help="the TCP chaos proxy alone, with Toxiproxy's API")
    proxying.add_argument("--host", default="127.0.0.1")
    proxying.add_argument("--port", type=int, default=8474)


def _run(options: argparse.Namespace) -> int:
    # Imported here: the overview of commands must not wait for the drills' packages.
    from tierline_drills import commands

    action = getattr(commands, options.action)
    return int(action(options))


DRILL = Command(
    name="drill",
    summary="Break real processes on purpose and measure the recovery.",
    configure=_configure,
    run=_run,
    example="tierline drill run server-crash --load 0.7 --out drill-results",
    needs=("uvicorn", "yaml"),
    extra="drills",
)
