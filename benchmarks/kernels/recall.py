"""How many of the best items by exact float32 products an int8 table finds, with and without
exact rescoring: ``python benchmarks/kernels/recall.py --table FILE``.

The table is item rows in float32, as training left them: an .npy file, or the .safetensors of a
trained model (its tensor "table"; `make demo DATA=Beauty.txt` leaves one). Without one a synthetic
stand-in is used, and the output says so. Queries are histories' means, as a ranker's states are.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tierline_kernels as kernels

K = 100
QUERIES = 500
HISTORY = 10
# What `make demo DATA=Beauty.txt` leaves.
TRAINED = Path(".demo", "Beauty", "training", "stages", "edge", "model.safetensors")


def stand_in(rng: np.random.Generator, items: int, d: int) -> NDArray[np.float32]:
    """Rows with a decaying spectrum and uneven lengths, as trained embeddings have."""
    spectrum = (1.0 + np.arange(d)) ** -0.5
    mixed = (
        rng.standard_normal((items, d)) * spectrum @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    )
    return (mixed * rng.lognormal(0.0, 0.3, (items, 1))).astype(np.float32)


def load(path: Path) -> NDArray[np.float32]:
    """The rows of an .npy file, or the tensor "table" of a .safetensors file."""
    if path.suffix == ".safetensors":
        safe_open: Any = import_module("safetensors").safe_open
        with safe_open(path, "np") as tensors:
            return np.asarray(tensors.get_tensor("table"), np.float32)
    return np.asarray(np.load(path, allow_pickle=False), np.float32)


def recalls(rows: NDArray[np.float32], rng: np.random.Generator) -> tuple[float, float]:
    """Mean share of the exact best K found by int8 alone, and after exact rescoring of 4 K."""
    picked = rng.integers(0, len(rows), (QUERIES, HISTORY))
    queries = rows[picked].mean(axis=1)
    exact = rows.astype(np.float64) @ queries.T.astype(np.float64)
    best = np.argpartition(-exact, K, axis=0)[:K].T
    table = kernels.quantize_rows(rows)
    rough = kernels.dot_topk(queries, table, K).indices
    fine = kernels.dot_topk(queries, table, K, rescore=rows).indices

    def share(found: NDArray[np.int64]) -> float:
        pairs = zip(found, best, strict=True)
        return float(np.mean([np.isin(mine, right).mean() for mine, right in pairs]))

    return share(rough), share(fine)


def main(argv: list[str] | None = None) -> int:
    """Print both recalls as one line of JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks/kernels/recall.py", description=__doc__)
    parser.add_argument("--trained", action="store_true", help=f"take {TRAINED} of the checkout")
    parser.add_argument("--table", type=Path, help=".npy of float rows [items, d]")
    parser.add_argument("--json", help="a file, or - for one line on standard output")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.trained:
        options.table = Path(__file__).resolve().parent.parent.parent / TRAINED
    rng = np.random.default_rng(options.seed)
    if options.table is None:
        rows, source = stand_in(rng, 12_101, 64), "synthetic stand-in, 12101 items x 64"
    else:
        if not options.table.exists():
            missing = TRAINED if options.trained else options.table
            print(f"no {missing}: train first, with `make demo DATA=Beauty.txt`.")
            return 2
        loaded = load(options.table)
        rows = np.ascontiguousarray(loaded[np.abs(loaded).sum(axis=1) > 0], np.float32)
        source = f"{options.table.name}, {rows.shape[0]} items x {rows.shape[1]}"
    alone, rescored = recalls(rows, rng)
    figures = {
        "table": source, "trained": options.table is not None, "queries": QUERIES, "k": K,
        "int8": alone, "int8_rescored": rescored,
    }  # fmt: skip
    print(f"{source}: recall@{K} of int8 {alone:.4f}, with rescoring of {4 * K} {rescored:.4f}")
    if options.json == "-":
        print(json.dumps(figures))
    elif options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
