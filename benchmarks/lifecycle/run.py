"""Swaps, roll-backs, failed loads and rolling restarts of real nodes under load: what fails?

Callers of the SDK never pause; every answer is compared with what its bundle must answer.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bundles import MODEL, UNSIGNED, Made, make
from nodes import Callers, Node, running
from numpy.typing import NDArray

from tierline_serving.access.keyring import create_key
from tierline_serving.access.scopes import Scope
from tierline_serving.registry import Registry

CALLERS = 4
BETWEEN = 10  # calls between two swaps, so that each bundle answers some
MIB = 2**20


@dataclass(frozen=True)
class Shop:
    """Three good bundles and one that is refused, in a registry with a key file beside it. Three,
    because of two the one before would be in memory still, and nothing would be loaded."""

    folder: Path
    good: tuple[Made, ...]
    bad: Made
    key: str

    @classmethod
    def build(cls, folder: Path) -> Shop:
        good = tuple(make(folder, str(number), seed=number) for number in (1, 2, 3))
        bad = make(folder, "4", seed=4, is_true=False)
        _, key = create_key(folder / "keys.json", frozenset(Scope))
        shop = cls(folder, good, bad, key)
        for made in (bad, *good):
            shop.registry.publish(made.bundle.path, trust=UNSIGNED)
        return shop

    @property
    def registry(self) -> Registry:
        return Registry(self.folder / "registry")

    @property
    def place(self) -> str:
        return f"registry:{self.registry.root}/{MODEL}"

    @property
    def expected(self) -> dict[str, NDArray[np.float32]]:
        return {made.bundle.id: made.scores for made in self.good}

    def promote(self, made: Made) -> None:
        self.registry.promote(MODEL, made.bundle.id, trust=UNSIGNED, channel="stable")

    def node(self, *arguments: str) -> Node:
        return Node([self.place, *arguments])

    def keyed(self) -> Node:
        return self.node("--keys", str(self.folder / "keys.json"))


def swaps(shop: Shop, count: int, rollbacks: int) -> dict[str, object]:
    """Promote and load one bundle after the other under load, then roll back and forth."""
    shop.promote(shop.good[0])
    node = shop.keyed()
    refused, load_ms, rollback_ms, sizes = 0, [], [], []
    with running(node):
        with Callers([node.url], shop.expected, callers=CALLERS, key=shop.key) as calm:
            calm.wait_for(50 * CALLERS)
        with Callers([node.url], shop.expected, callers=CALLERS, key=shop.key) as load:
            for number in range(count):
                shop.promote(shop.good[(number + 1) % len(shop.good)])
                begun = time.perf_counter()
                refused += node.change("load", shop.key) != 200
                load_ms.append((time.perf_counter() - begun) * 1000)
                load.wait_for(BETWEEN)
                sizes.append(node.resident)
            for _ in range(rollbacks):
                begun = time.perf_counter()
                refused += node.change("rollback", shop.key) != 200
                rollback_ms.append((time.perf_counter() - begun) * 1000)
                load.wait_for(BETWEEN)
        left = node.leave()
    tally = load.tally
    return {
        "swaps": count,
        "rollbacks": rollbacks,
        "refused": refused,
        "calls": tally.answered,
        "failed": tally.failed + tally.torn + int(left != 0),
        "first_failure": tally.first_failure,
        "retried": tally.retried,
        "growth_mib": _growth(sizes),
        "load_ms_median": round(float(np.median(load_ms)), 1),
        "rollback_ms_max": round(max(rollback_ms), 1),
        "rollback_ms_median": round(float(np.median(rollback_ms)), 1),
        "p99_ms_calm": round(calm.tally.quantile(0.99), 1),
        "p99_ms_swapping": round(tally.quantile(0.99), 1),
    }


def failed_loads(shop: Shop, count: int) -> dict[str, object]:
    """Load a bundle whose golden answers are wrong again and again; what serves must serve on."""
    shop.promote(shop.good[0])
    node = shop.keyed()
    sizes: list[int] = []
    with running(node):
        shop.promote(shop.bad)
        with Callers([node.url], shop.expected, callers=1, key=shop.key) as load:
            loaded = 0
            for _ in range(count):
                loaded += node.change("load", shop.key) == 200
                load.wait_for(1)
                sizes.append(node.resident)
        node.leave()
    return {
        "loads": count,
        "loaded": loaded,
        "growth_mib": _growth(sizes),
        "resident_mib": round(sizes[-1] / MIB, 1),
        "calls": load.tally.answered,
        "failed": load.tally.failed + load.tally.torn + loaded,
        "first_failure": load.tally.first_failure,
    }


def _growth(sizes: list[int]) -> float:
    """MiB that a process has grown by since the first fifth, when the allocator's pools filled."""
    warm = max(1, len(sizes) // 5)
    growth = max(sizes[warm:], default=sizes[-1]) - max(sizes[:warm])
    return round(max(0, growth) / MIB, 1)


def rolling_restart(shop: Shop, rounds: int) -> dict[str, object]:
    """Two nodes restarted in turn under load, each round with the next bundle."""
    nodes = [shop.node(), shop.node()]
    exits: list[int] = []
    shop.promote(shop.good[0])
    with running(*nodes):
        urls = [node.url for node in nodes]
        with Callers(urls, shop.expected, callers=CALLERS) as load:
            for number in range(rounds):
                shop.promote(shop.good[(number + 1) % len(shop.good)])
                for node in nodes:
                    exits.append(node.leave())
                    node.kill()
                    node.start()
                    load.wait_for(BETWEEN)
    tally = load.tally
    return {
        "restarts": len(exits),
        "exits_not_0": sum(code != 0 for code in exits),
        "calls": tally.answered,
        "failed": tally.failed + tally.torn,
        "first_failure": tally.first_failure,
        "retried": tally.retried,
        "p99_ms": round(tally.quantile(0.99), 1),
    }


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/lifecycle/run.py --json -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rollbacks", type=int, default=20)
    parser.add_argument("--failed-loads", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=3, help="rounds over two nodes")
    parser.add_argument("--json", choices=["-"], help="print the figures as JSON on the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop.build(Path(folder))
        figures: dict[str, object] = {
            "swapping": swaps(shop, options.swaps, options.rollbacks),
            "failing": failed_loads(shop, options.failed_loads),
            "restarting": rolling_restart(shop, options.restarts),
            "callers": CALLERS,
            "python": platform.python_version(),
        }
    for name, figure in figures.items():
        print(f"{name}: {json.dumps(figure)}")
    if options.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
