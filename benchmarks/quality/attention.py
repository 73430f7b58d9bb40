"""From which length of history on is linear attention faster than softmax attention? One causal
layer as wide as `full`'s (d = 64, one head), forward, random numbers: time says nothing of quality.

Linear attention is Katharopoulos et al. 2020 (features elu(x) + 1), causal, in chunks: within one
as a masked product, before it as a running sum of keys times values.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor
from torch.nn import functional

DIM, CHUNK, SEED, WARM_UP = 64, 64, 7, 3
LENGTHS = (50, 100, 200, 400, 800, 1600, 3200)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Rows = dict[int, dict[str, dict[str, float]]]  # length → attention → median, low, high


def softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's own fused causal attention: [B, L, d] each → [B, L, d]."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def linear(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same shapes, in time that grows with L."""
    query, key = functional.elu(query) + 1, functional.elu(key) + 1
    batch, length, dim = query.shape
    state, norm = query.new_zeros(batch, dim, dim), query.new_zeros(batch, dim, 1)
    parts = []
    for start in range(0, length, CHUNK):
        some = slice(start, start + CHUNK)
        q, k, v = query[:, some], key[:, some], value[:, some]
        near = (q @ k.transpose(1, 2)).tril()
        above = near @ v + q @ state
        parts.append(above / (near.sum(2, keepdim=True) + q @ norm))
        state = state + k.transpose(1, 2) @ v
        norm = norm + k.sum(1)[..., None]
    return torch.cat(parts, dim=1)


def milliseconds(attention: Attention, batch: int, length: int, repeats: int) -> dict[str, float]:
    """Median and quartiles of ``repeats`` calls after WARM_UP more."""
    generator = torch.Generator().manual_seed(SEED)
    given = [torch.randn(batch, length, DIM, generator=generator) for _ in range(3)]
    took = []
    for _ in range(repeats + WARM_UP):
        began = time.perf_counter()
        attention(*given)
        took.append(1e3 * (time.perf_counter() - began))
    low, _, high = quantiles(took[WARM_UP:], n=4)
    return {"median": median(took[WARM_UP:]), "low": low, "high": high}


def faster_from(rows: Rows) -> int | None:
    """The length from which on linear attention stays faster; None: it never is."""
    slower = [n for n, row in rows.items() if row["softmax"]["median"] <= row["linear"]["median"]]
    return min((length for length in rows if length > max(slower, default=0)), default=None)


def told(row: dict[str, dict[str, float]]) -> str:
    """One length's line of the table: medians, quartiles in brackets."""
    parts = [
        f"{name} {took['median']:8.3f} ms [{took['low']:.3f}, {took['high']:.3f}]"
        for name, took in row.items()
    ]
    return f"{', '.join(parts)}, {row['softmax']['median'] / row['linear']['median']:.2f} times"


def main() -> int:
    """Print a table and the lengths from which on linear attention stays faster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", help="write the figures here (- is the last line of stdout)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {
        "torch": torch.__version__, "dim": DIM, "chunk": CHUNK, "threads": 1,
        "seed": SEED, "warm_up": WARM_UP, "repeats": options.repeats,
    }  # fmt: skip
    sys.stderr.write(f"{figures}\n")
    with torch.inference_mode():
        for batch in (1, 8):
            rows = {
                length: {
                    attention.__name__: milliseconds(attention, batch, length, options.repeats)
                    for attention in (softmax, linear)
                }
                for length in LENGTHS
            }
            figures[f"batch_{batch}"] = {"milliseconds": rows, "faster_from": faster_from(rows)}
            for length, row in rows.items():
                sys.stderr.write(f"batch {batch}, history {length:5d}: {told(row)}\n")
    found = json.dumps(figures)
    if options.json in (None, "-"):
        print(found)
    else:
        Path(options.json).write_text(found, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
