"""Times the CPU kernels against torch in one run: ``python benchmarks/kernels/run.py``.

Prints a row per case and writes JSON with seed, sizes, versions, medians and spreads. Both sides
get the same arrays, or arrays of the same kind of memory, and the same number of threads, and take
turns, now the one first and now the other, so that a change in the machine's load meets both; the
ratio is the median over turns. Each call finds the third-level cache full of something else. What
memory allows is measured in the same run (limits.py).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import limits
import numba
import numpy as np
import torch
from numpy.typing import NDArray

import tierline_kernels as kernels
from tierline_kernels import cpu
from tierline_kernels.foreign import import_rows
from tierline_kernels.layout import RowwiseInt8


@dataclass(frozen=True, slots=True)
class Result:
    """One case: medians and quartiles in milliseconds; ratio, the median over turns of torch's time
    over ours, above 1 means ours is faster."""

    case: str
    size: str
    ours_ms: float
    ours_quartiles: tuple[float, float]
    torch_ms: float
    torch_quartiles: tuple[float, float]
    ratio: float
    target: float


# torch's worker threads spin on their processors after a call; whoever is measured next waits for
# them to go to sleep, so that neither side pays for the other.
REST = 0.05
LARGE_PAGE = 2 << 20  # bytes
CACHE = 64 << 20  # bytes; more than a third-level cache holds

Case = tuple[str, str, Callable[[], Any], Callable[[], Any], float]


Limits = dict[str, tuple[Callable[[], Any], float]]  # what reads or writes how many bytes


def bag_cases(
    rng: np.random.Generator, rows: int, d: int, bags: int, length: int
) -> tuple[list[Case], Limits]:
    """Bags over a float32 and an int8 table; answers are compared before anything is timed. And
    how fast the same rows, or all of them, are read by a loop that does nothing else."""
    table = in_large_pages(rng.standard_normal((rows, d), dtype=np.float32))
    ids = rng.integers(0, rows, bags * length)
    offsets = np.arange(0, bags * length, length)
    tensor, flat, starts = (torch.from_numpy(array) for array in (table, ids, offsets))
    prepacked = torch.ops.quantized.embedding_bag_byte_prepack(tensor)
    packed = torch.from_numpy(in_large_pages(prepacked.numpy()))
    closed = torch.cat([starts, torch.tensor([bags * length])])
    rowwise = table_in_large_pages(import_rows(packed.numpy(), d, "torch8").to_rowwise())

    def theirs() -> Any:
        return torch.nn.functional.embedding_bag(flat, tensor, starts, mode="sum")

    def theirs_int8() -> Any:
        return torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            packed, flat, closed, False, 0, False, None, None, True
        )

    def ours() -> Any:
        return kernels.embedding_bag(table, ids, offsets)

    def ours_affine() -> Any:
        return kernels.embedding_bag(rowwise, ids, offsets)

    native = table_in_large_pages(
        kernels.quantize_rows(table)
    )  # one scale a row, no bias: what bundles hold

    def ours_int8() -> Any:
        return kernels.embedding_bag(native, ids, offsets)

    np.testing.assert_allclose(ours(), theirs().numpy(), atol=1e-4)
    np.testing.assert_allclose(ours_affine(), theirs_int8().numpy(), atol=1e-2)
    size = f"{rows}x{d}, {bags} bags of {length}"
    read = {
        "rows of 512 bytes at random": (limits.reader(table, ids), float(len(ids) * d * 4)),
        "rows of 128 bytes at random": (limits.reader(native.codes, ids), float(len(ids) * d)),
        "read in order": (limits.sweeper(table), float(table.nbytes)),
        "copy (read and written)": (limits.copier(table.copy()), float(table.nbytes)),
    }
    return [
        ("bag float32", size, ours, theirs, 0.9),
        ("bag int8", size, ours_int8, theirs_int8, 0.9),
        ("bag int8 affine", size, ours_affine, theirs_int8, 0.9),
    ], read


def in_large_pages(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in fresh memory of large pages, as far as the kernel has some. Else it would hang on
    what was freed before which of two arrays lies in such pages; rows read at random from small
    ones cost twice the time."""
    memory = mmap.mmap(-1, array.nbytes + LARGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % LARGE_PAGE
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def table_in_large_pages(table: RowwiseInt8) -> RowwiseInt8:
    """The same, of a table's codes."""
    return replace(table, codes=in_large_pages(table.codes))


def large_pages() -> float:
    """How many MiB of this process lie in large pages."""
    text = Path("/proc/self/smaps_rollup").read_text("ascii")
    line = next(line for line in text.splitlines() if line.startswith("AnonHugePages:"))
    return int(line.split()[1]) / 1024


def topk_case(rng: np.random.Generator, n: int, k: int) -> Case:
    """Selection from one row."""
    x = rng.standard_normal((1, n), dtype=np.float32)
    tensor = torch.from_numpy(x)
    np.testing.assert_array_equal(kernels.topk(x, k).values, torch.topk(tensor, k).values.numpy())
    return (
        "topk", f"1x{n}, k={k}",
        lambda: kernels.topk(x, k), lambda: torch.topk(tensor, k), 1.5,
    )  # fmt: skip


def retrieve_case(rng: np.random.Generator, n: int, d: int, k: int) -> tuple[Case, float]:
    """Fused int8 retrieval beside a float32 product and topk; also the share of ids in common."""
    items = rng.standard_normal((n, d), dtype=np.float32)
    query = rng.standard_normal((1, d), dtype=np.float32)
    quantised = kernels.quantize_rows(items)
    tensor, vector = torch.from_numpy(items), torch.from_numpy(query)

    def theirs() -> Any:
        return torch.topk(vector @ tensor.T, k)

    common = np.isin(kernels.dot_topk(query, quantised, k).indices, theirs().indices.numpy())
    return (
        "dot_topk int8", f"{n}x{d}, k={k}",
        lambda: kernels.dot_topk(query, quantised, k), theirs, 2.0,
    ), float(common.mean())  # fmt: skip


def timed(call: Callable[[], Any], cold: NDArray[np.int64]) -> float:
    """Milliseconds of a call that finds none of its memory in the caches."""
    time.sleep(REST)
    cold.sum()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def turn(
    ours: Callable[[], Any], theirs: Callable[[], Any], cold: NDArray[np.int64], *, swapped: bool
) -> tuple[float, float]:
    """Milliseconds of ours and of theirs; theirs is called first when ``swapped``."""
    if swapped:
        last, first = timed(theirs, cold), timed(ours, cold)
        return first, last
    return timed(ours, cold), timed(theirs, cold)


def measure(case: Case, cold: NDArray[np.int64], warm: int, repeats: int) -> Result:
    """Both sides in turn, ``warm`` unmeasured rounds first."""
    name, size, ours, theirs, target = case
    turns = [turn(ours, theirs, cold, swapped=bool(i % 2)) for i in range(warm + repeats)][warm:]
    mine, torchs = ([taken[side] for taken in turns] for side in (0, 1))
    spread = [quantiles(times, n=4) for times in (mine, torchs)]
    return Result(
        name, size,
        median(mine), (spread[0][0], spread[0][2]), median(torchs), (spread[1][0], spread[1][2]),
        median(theirs / ours for ours, theirs in turns), target,
    )  # fmt: skip


def measure_limits(
    read: Limits, cold: NDArray[np.int64], warm: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Each in turn: medians in milliseconds, and GB/s."""
    taken: dict[str, list[float]] = {name: [] for name in read}
    for _ in range(warm + repeats):
        for name, (call, _) in read.items():
            taken[name].append(timed(call, cold))
    middle = {name: median(times[warm:]) for name, times in taken.items()}
    return {
        name: {"ms": middle[name], "gb_per_s": moved / middle[name] / 1e6}
        for name, (_, moved) in read.items()
    }


def keep_freed_memory() -> None:
    """Let freed memory stay with this process, where the C library is glibc: else now one side
    and now the other gets its output as fresh pages, whose first touch takes milliseconds."""
    library: Any = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for setting in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            library.mallopt(setting, 1 << 30)


def machine() -> str:
    """Processor, how many of it, and memory."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {cpu.threads()} cores, {memory:.0f} GiB"


def main(argv: list[str] | None = None) -> int:
    """Run all cases; exit status 1 when a ratio misses its target and --check is given."""
    parser = argparse.ArgumentParser(prog="benchmarks/kernels/run.py", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="shrink rows and bags by this")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", help="a file, or - for one line on standard output")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    keep_freed_memory()
    rng = np.random.default_rng(options.seed)
    torch.set_num_threads(cpu.threads())
    million = max(1000, int(1_000_000 * options.scale))
    cases, read = bag_cases(rng, million, 128, max(8, int(16_384 * options.scale)), 32)
    cases.append(topk_case(rng, million, 100))
    retrieval, overlap = retrieve_case(rng, million, 64, 100)
    cases.append(retrieval)
    setting = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": options.seed, "scale": options.scale, "warm_up": options.warm_up,
        "repeats": options.repeats, "threads": cpu.threads(), "machine": machine(),
        "python": platform.python_version(), "numpy": np.__version__,
        "numba": numba.__version__, "torch": torch.__version__, "int8_ids_in_common": overlap,
        "large_pages_mib": large_pages(),
    }  # fmt: skip
    print(json.dumps(setting))
    results = []
    cold = np.ones(int(CACHE * min(1.0, options.scale)) // 8, np.int64)
    with torch.inference_mode():
        for case in cases:
            result = measure(case, cold, options.warm_up, options.repeats)
            results.append(result)
            print(
                f"{result.case:14s} {result.size:32s} ours {result.ours_ms:8.2f} ms "
                f"torch {result.torch_ms:8.2f} ms  {result.ratio:5.2f}x (target {result.target}x)"
            )
        floor = measure_limits(read, cold, options.warm_up, options.repeats)
    for name, found in floor.items():
        print(f"{name:30s} {found['ms']:8.2f} ms {found['gb_per_s']:6.1f} GB/s")
    missed = [each.case for each in results if each.ratio < each.target]
    if missed:
        print("below target:", ", ".join(missed))
    told = {"setting": setting, "results": [asdict(each) for each in results], "limits": floor}
    told |= {each.case.replace(" ", "_"): {"times_torch": each.ratio} for each in results}
    if options.json == "-":
        print(json.dumps(told))
    elif options.json:
        Path(options.json).write_text(json.dumps(told, indent=1), "utf-8")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
