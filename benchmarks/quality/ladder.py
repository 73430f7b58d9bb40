"""The compression ladder on the made-up shop (or DATA): what each rung keeps, weighs and costs.

Trains both tiers by the quick recipe first (about a minute), or goes on with a run left in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tierline_cloud.run import TrainOptions, compress


def main() -> int:
    """Print one JSON object: a rung's figures under its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="interactions; none: the made-up shop")
    parser.add_argument("--recipe", default="quick", help="quick, full or a .toml file")
    parser.add_argument("--out", type=Path, help="folder of the run; default: one that is deleted")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", help="write the figures here (- is the last line of stdout)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = TrainOptions(
            data=options.data, kind=None, out=options.out or Path(folder), recipe=options.recipe,
            users=4000, items=1500, epochs=None, max_minutes=None, escalation=0.15,
            seed=options.seed, model="ranker", registry=None, key=None, threads=2,
        )  # fmt: skip
        outcome = compress(run)
    figures = json.dumps({rung["name"]: rung for rung in outcome.document["rungs"]})
    sys.stderr.write(outcome.table + "\n")
    if options.json in (None, "-"):
        print(figures)
    else:
        Path(options.json).write_text(figures, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
