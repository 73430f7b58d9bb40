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
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

DIM, CHUNK = 64, 64
LENGTHS = (50, 100, 200, 400, 800, 1600, 3200)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def seconds(attention: Attention, batch: int, length: int, repeats: int) -> float:
    """The median of ``repeats`` calls after three to warm up."""
    generator = torch.Generator().manual_seed(7)
    given = [torch.randn(batch, length, DIM, generator=generator) for _ in range(3)]
    took = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        attention(*given)
        took.append(time.perf_counter() - began)
    return median(took[3:])


def main() -> int:
    """Print a table and the lengths from which on linear attention stays faster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", help="write the figures here (- is the last line of stdout)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {"torch": torch.__version__, "dim": DIM, "chunk": CHUNK}
    with torch.inference_mode():
        for batch in (1, 8):
            rows = {
                length: [
                    1e3 * seconds(attention, batch, length, options.repeats)
                    for attention in (softmax, linear)
                ]
                for length in LENGTHS
            }
            slower = [length for length, (one, other) in rows.items() if one <= other]
            later = [length for length in LENGTHS if length > max(slower, default=0)]
            figures[f"batch_{batch}"] = {
                "milliseconds": rows,
                "faster_from": min(later, default=None),
            }
            for length, (one, other) in rows.items():
                sys.stderr.write(
                    f"batch {batch}, history {length:5d}: softmax {one:8.3f} ms, "
                    f"linear {other:8.3f} ms, {one / other:5.2f} times as fast\n"
                )
    found = json.dumps(figures)
    if options.json in (None, "-"):
        print(found)
    else:
        Path(options.json).write_text(found, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
