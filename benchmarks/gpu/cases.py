"""The operations that are measured: inputs, the bytes they must move, and a check in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.cuda.device import (
    Bag,
    Bags,
    DeviceTable,
    Retrieval,
    Rows,
    Rules,
    Selection,
)
from tierline_kernels.cuda.driver import Driver
from tierline_kernels.layout import RowwiseInt8, quantize_rows

SECTOR = 32  # bytes; memory is fetched in these


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is; the simulator takes tiny ones."""

    rows: int
    items: int
    bags: int
    length: int
    selections: tuple[tuple[int, int], ...]  # rows, numbers in each
    k: int
    batches: tuple[int, ...]
    sets: int  # different inputs taken in turn


FULL = Sizes(
    8_000_000, 10_000_000, 65_536, 32, ((64, 1_000_000), (1, 100_000_000)), 100, (1, 8, 32, 128), 4
)
TINY = Sizes(40, 70, 3, 3, ((2, 64), (1, 100)), 3, (1, 2), 2)


@dataclass(frozen=True, slots=True)
class Case:
    """One operation at one size; ``runs`` do the same on different inputs."""

    name: str
    size: str
    moved: float  # bytes that must cross the memory's pins, in whole sectors
    target: float | None  # of the copy's bandwidth
    runs: Sequence[Callable[[], None]]
    check: Callable[[], None]  # raises AssertionError
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)  # what peers.py needs
    peer_targets: dict[str, float] = field(default_factory=dict)


def sectors(size: int) -> int:
    """Bytes fetched for ``size`` bytes in one piece."""
    return -(-size // SECTOR) * SECTOR


def make_table(rng: np.random.Generator, kind: str, n: int, d: int) -> Any:
    """Random rows; float tables repeat a block, whose rows lie apart all the same."""
    if kind == "int8":
        codes = np.frombuffer(rng.bytes(n * d), np.int8).reshape(n, d)
        return RowwiseInt8(codes, rng.uniform(0.001, 0.1, n).astype(np.float32))
    block = rng.standard_normal((min(n, 65_536), d), dtype=np.float32).astype(kind)
    return np.tile(block, (-(-n // len(block)), 1))[:n]


def bag_case(
    driver: Driver, sizes: Sizes, kind: str, d: int, target: float, *, zipf: bool = False
) -> Case:
    """Sums of bags over a table of ``kind``; ids uniform, or by Zipf's law."""
    rng = np.random.default_rng(1)
    host = make_table(rng, kind, sizes.rows, d)
    table = DeviceTable(driver, host)
    count = sizes.bags * sizes.length
    offsets = np.arange(0, count + 1, sizes.length)
    device_offsets = driver.upload(offsets, np.int64)
    runs, first = [], None
    for _ in range(sizes.sets):
        draw = (rng.zipf(1.05, count) - 1) if zipf else rng.integers(0, sizes.rows, count)
        ids = draw % sizes.rows
        out = driver.empty(sizes.bags * d, np.float32)
        bags = Bags(driver.upload(ids, np.int64), count, device_offsets, sizes.bags)
        bag = Bag(table, bags, out)
        runs.append(bag.run)
        first = first or (ids, out)
    assert first is not None
    ids, out = first

    def check() -> None:
        runs[0]()
        got = driver.download(out, sizes.bags * d, np.float32).reshape(sizes.bags, d)
        for b in rng.integers(0, sizes.bags, 64):
            chosen = ids[offsets[b] : offsets[b + 1]]
            exact = np.asarray(_rows64(host, chosen)).sum(axis=0)
            error = np.linalg.norm(got[b] - exact) / max(np.linalg.norm(exact), 1e-9)
            assert error < 1e-6 * sizes.length**0.5, (kind, d, b, error)

    item = {"float32": 4, "float16": 2, "int8": 1}[kind]
    row = sectors(d * item) + (SECTOR if kind == "int8" else 0)
    moved = count * (row + 8) + sizes.bags * (d * 4 + 8)
    name = f"bag {kind}{' zipf' if zipf else ''}"
    data = {"table": host, "ids": ids, "offsets": offsets, "kind": kind}
    return Case(
        name, f"{sizes.rows}x{d}, {sizes.bags} bags of {sizes.length}", moved, target, runs, check,
        {"bag": data}, {"torch": 1.3} if kind == "float32" and d == 128 else {},
    )  # fmt: skip


def _rows64(table: Any, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    if isinstance(table, RowwiseInt8):
        return table.codes[ids].astype(np.float64) * table.scales[ids, None].astype(np.float64)
    return np.asarray(table[ids], np.float64)


def selection_case(driver: Driver, rows: int, n: int, sizes: Sizes, target: float) -> Case:
    """The k largest of each row."""
    rng = np.random.default_rng(2)
    host = rng.standard_normal((rows, n), dtype=np.float32)
    k = sizes.k
    lengths = driver.upload(np.full(rows, n), np.int64)
    selections = []
    for shift in range(sizes.sets if rows * n < 10**8 else 1):
        x = driver.upload(np.roll(host, shift, axis=1), np.float32)
        selections.append(Selection(driver, Rows(x, rows, n, lengths), k))

    def check() -> None:
        selections[0].run()
        values, indices = selections[0].answer()
        want = -np.sort(-np.partition(host, max(n - k, 0), axis=1)[:, -k:], axis=1)
        np.testing.assert_array_equal(values, want)
        np.testing.assert_array_equal(np.take_along_axis(host, indices, axis=1), want)

    return Case(
        "topk", f"{rows}x{n}, k={k}", rows * n * 4.0, target, [each.run for each in selections],
        check, {"topk": {"x": host, "k": k}}, {"torch": 3.0} if rows > 1 else {},
    )  # fmt: skip


def retrieval_case(
    driver: Driver,
    table: DeviceTable,
    host: RowwiseInt8,
    batch: int,
    sizes: Sizes,
    target: float | None,
) -> Case:
    """The k best items of each query, half of the items filtered out."""
    rng = np.random.default_rng(3)
    n, d = host.shape
    bits = rng.integers(0, 2**32, (n + 31) // 32, dtype=np.uint32)
    rules = Rules(filter_bits=driver.upload(bits, np.uint32))
    retrievals, all_queries = [], []
    for _ in range(sizes.sets):
        queries = rng.standard_normal((batch, d), dtype=np.float32)
        memory = driver.upload(queries, np.float32)
        retrievals.append(Retrieval(table, memory, batch, sizes.k, rules))
        all_queries.append(queries)

    def check() -> None:
        retrievals[0].run()
        values, indices = retrievals[0].answer()
        sample = np.unique(rng.integers(0, n, min(n, 100_000)))
        for b in range(min(batch, 4)):
            found = indices[b][indices[b] >= 0]
            np.testing.assert_array_equal(
                scores_of(host, all_queries[0][b], found), values[b][: len(found)]
            )
            allowed = (bits[sample >> 5] >> (sample & 31).astype(np.uint32)) & 1 == 1
            rivals = scores_of(host, all_queries[0][b], sample[allowed])
            better = sample[allowed][rivals > values[b][-1]]
            assert np.isin(better, found).all(), "an item left out beats the last one"
            assert ((bits[found >> 5] >> (found & 31).astype(np.uint32)) & 1).all()

    moved = float(n * (sectors(d) + 4))  # filter words of items that pass: no more than n / 8
    data = {"items": host, "queries": all_queries[0], "k": sizes.k}
    against = {1: 1.6, 8: 2.0, 32: 2.0}
    return Case(
        f"dot_topk int8 B={batch}", f"{n}x{d}, k={sizes.k}, half filtered", moved, target,
        [each.run for each in retrievals], check, {"retrieve": data},
        {"torch bf16": against[batch]} if batch in against else {},
    )  # fmt: skip


def scores_of(host: RowwiseInt8, query: NDArray[np.float32], ids: NDArray[Any]) -> NDArray[Any]:
    """What every back end must say: an exact integer product, then rounded steps."""
    quantised = quantize_rows(query[None])
    dots = host.codes[ids].astype(np.float64) @ quantised.codes[0].astype(np.float64)
    return (dots.astype(np.float32) * host.scales[ids]) * quantised.scales[0]
