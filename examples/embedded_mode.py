"""The edge scorer inside this very process: no server, no network, no copy of the answer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import tierline

EXAMPLE = "example:\n  python examples/embedded_mode.py path/to/edge-bundle --history 3 5 8 --k 5"


def main() -> int:
    """Recommend for one history, put the same items in order, and time it."""
    options = _parser().parse_args()
    manifest = json.loads((Path(options.bundle) / "manifest.json").read_text(encoding="utf-8"))
    model = str(manifest["model"])
    with tierline.Client(
        edge=[f"embedded:{options.bundle}"],
        cloud=options.cloud,
        deadline=options.deadline,
        allow_unsigned=options.allow_unsigned,
    ) as client:
        client.prepare(model)
        query = {"history": np.array(options.history, np.int64)}
        answer = client.recommend(model, query=query, k=options.k)
        print(f"{answer.tier} answered ({answer.quality}: {answer.reason}), {answer.bundle}")
        for rank, (item, score) in enumerate(answer.top(options.k), 1):
            print(f"  {rank:>2}. item {item:<8} {score:.4f}")
        assert answer.items is not None  # recommend always names items
        candidates = np.sort(answer.items)
        again = client.score(model, query=query, candidates=candidates)
        print(f"the same items as candidates: {[item for item, _ in again.top(options.k)]}")
        print(f"one call takes {_microseconds(client, model, query, candidates):.0f} µs (median)")
    return 0


def _microseconds(
    client: tierline.Client,
    model: str,
    query: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]],
    candidates: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    calls: int = 200,
) -> float:
    """The median of ``calls`` edge-only calls."""
    spans = []
    for _ in range(calls):
        began = time.perf_counter()
        client.score(model, query=query, candidates=candidates, mode="edge_only")
        spans.append(time.perf_counter() - began)
    return float(np.median(spans)) * 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="folder of an edge bundle of kind `sequence`")
    parser.add_argument("--history", nargs="*", type=int, default=[1, 2, 3], help="item ids")
    parser.add_argument("--k", type=int, default=10, help="how many items (10)")
    parser.add_argument("--cloud", nargs="*", default=[], help="cloud endpoints for unsure answers")
    parser.add_argument("--deadline", type=float, default=0.25, help="seconds a call may take")
    parser.add_argument("--allow-unsigned", action="store_true", help="accept an unsigned bundle")
    return parser


if __name__ == "__main__":
    sys.exit(main())
