"""Trains, compresses and evaluates `full`'s pair on Amazon Beauty, by the commands a user has, then
packs `partial`'s from the same networks: an edge with a gap, and what escalating closes of it.

Takes some 30 minutes on two cores; goes on with what a run left in --out. The data's file is named
by --data or TIERLINE_BEAUTY.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Figures = dict[str, Any]  # JSON, as the commands wrote it


def main() -> int:
    """Print one JSON object of named figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Beauty.txt; default: $TIERLINE_BEAUTY")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of the run; default: one that is deleted")
    parser.add_argument("--json", help="write the figures here (- is the last line of stdout)")
    options = parser.parse_args()
    data = options.data or Path(os.environ.get("TIERLINE_BEAUTY", ""))
    if not data.is_file():
        sys.stderr.write("beauty: name Amazon Beauty's file with --data or TIERLINE_BEAUTY\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        figures = json.dumps(
            {
                **measured(data, options.seed, out),
                "partial": cascade(data, options.seed, out),
            }
        )
    if options.json in (None, "-"):
        print(figures)
    else:
        Path(options.json).write_text(figures, encoding="utf-8")
    return 0


def measured(data: Path, seed: int, out: Path) -> Figures:
    """The figures of one run, by name."""
    run = [str(data), "--recipe", "full", "--seed", str(seed), "--out", str(out)]
    said = out / "said.json"
    tierline("train", *run)
    tierline("compress", *run, "--no-latency", "--json", str(said))
    rungs = {rung["name"]: rung for rung in read(said)["rungs"]}
    stages = read(out / "results.json")["stages"]
    minutes = sum(read(stage)["seconds"] for stage in out.glob("stages/*/stage.json")) / 60
    return {
        "minutes": minutes,
        "knn": stages["baselines"]["item_knn"],
        "cloud": stages["blend"]["test"],
        "cloud_minus_knn": stages["evaluate"]["cloud_minus_knn"],
        "edge": stages["quantize"]["test"],
        "rungs": rungs,
        **evaluated(data, out),
    }


def cascade(data: Path, seed: int, out: Path) -> Figures:
    """The figures of an edge with part of the catalogue, by name; networks are kept."""
    tierline("train", str(data), "--recipe", "partial", "--seed", str(seed), "--out", str(out))
    stages = read(out / "results.json")["stages"]
    edge, cloud = stages["quantize"]["test"]["ndcg@10"], stages["blend"]["test"]["ndcg@10"]
    return {"edge_of_cloud_all_users": edge / cloud, **evaluated(data, out)}


def evaluated(data: Path, out: Path) -> Figures:
    """What `tierline evaluate` says of the pair last packed, on users nothing was fitted on."""
    said = out / "said.json"
    bundles = read(out / "results.json")["bundles"]
    pair = (bundles["edge"], bundles["cloud"])
    tierline("evaluate", *pair, str(data), "--allow-unsigned", "--json", str(said))
    page = read(said)
    tiers = {tier["name"]: tier for tier in page["tiers"]}
    heat = page["temperature"]
    return {
        "edge_of_cloud": page["gate"]["retention"],
        "tiered_of_cloud": tiers["tiered"]["retention"],
        "tiered_escalated": tiers["tiered"]["escalation"],
        "escalated_for_99": page["gate"]["escalation_at_retention"]["0.99"],
        "spearman": page["spearman"],
        "area_over_random": page["gate"]["area_over_random"],
        "worst_ece": max(heat[tier]["after"]["ece_top1"] for tier in ("edge", "cloud")),
        "certified_users": page["certificate"]["n"],
        "certified_escalation": page["certificate"]["escalation"],
    }


def tierline(*arguments: str) -> None:
    """Run a command of Tierline's; its output goes to standard error."""
    command = [sys.executable, "-m", "tierline.cli", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)


def read(path: Path) -> Figures:
    found: Figures = json.loads(path.read_text("utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
