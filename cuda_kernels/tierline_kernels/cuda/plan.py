"""Decides which kernels answer a call, with which grid and how much memory. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from tierline_kernels.cuda import catalogue, retrieve, rows, select
from tierline_kernels.cuda.catalogue import Kernel
from tierline_kernels.cuda.rows import Kind
from tierline_kernels.errors import KernelError

# A block sorts at most this many keys in shared memory (16 KiB), and halves them at least.
LARGEST_CHUNK = 2048
MAX_K = LARGEST_CHUNK // 2
# Rows an index of 32 bits can tell apart.
MOST_ROWS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan has to know about the device."""

    threads: int  # of a block; a multiple of 32
    blocks: int  # that share one scan: a few for each processor
    capability: tuple[int, int]

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.threads // 32


@dataclass(frozen=True, slots=True)
class Pass:
    """A first stage: ``lists`` warps write 32 keys each, or (0) every key is written."""

    kernel: Kernel
    grid: tuple[int, int]
    rows: int  # answered, padding included
    per_row: int  # keys
    lists: int
    groups: int = 1  # groups of queries a block meets


@dataclass(frozen=True, slots=True)
class Round:
    """One round of block sorts: ``keep`` of each chunk of ``m`` keys a row go on."""

    chunk: int
    blocks: int
    m: int
    keep: int


def check(n: int, k: int) -> None:
    """Raise KernelError for what the kernels cannot answer."""
    if k > MAX_K:
        raise KernelError(f'k is {k}; the "cuda" back end selects at most {MAX_K}.')
    if n > MOST_ROWS:
        raise KernelError(
            f'rows hold {n} numbers; the "cuda" back end indexes at most {MOST_ROWS}.'
        )


def bag(kind: Kind, d: int, *, aligned: bool) -> tuple[Kernel, int]:
    """The bag kernel and how many threads a bag takes."""
    if aligned and d % rows.PIECE[kind] == 0:
        return catalogue.bag(kind, d), d // rows.PIECE[kind]
    return catalogue.bag(kind, 0), d


def selection(machine: Machine, count: int, n: int, *, aligned: bool, exact: bool) -> Pass:
    """The first stage of top-k over ``count`` rows of n numbers."""
    if exact:
        blocks = min(machine.blocks, -(-n // machine.threads))
        return Pass(catalogue.keys(0), (max(1, blocks), count), count, max(1, n), 0)
    per = 4 if aligned and n % 4 == 0 and n else 1
    blocks = _blocks(machine, n, 32 * per, machine.warps, most=max(8, machine.blocks // count))
    lists = blocks * machine.warps
    return Pass(catalogue.keys(per), (blocks, count), count, lists * 32, lists)


def retrieval(
    machine: Machine, kind: Kind, n: int, d: int, count: int, *, aligned: bool, exact: bool
) -> Pass:
    """The first stage of ``dot_topk`` for ``count`` queries over n items."""
    lanes = retrieve.lanes_per_row(kind, d) if aligned else 0
    if exact or (not lanes and d % 64):
        return _by_columns(machine, kind, n, count, exact)
    tensor = kind == "int8" and d % 64 == 0 and aligned
    if tensor and count > 1 and machine.capability >= catalogue.TENSOR_SINCE:
        return _by_tensor_cores(machine, n, d, count)
    if not lanes:
        return _by_columns(machine, kind, n, count, exact)
    together = retrieve.TOGETHER if count > 1 else 1
    blocks = _blocks(machine, n, retrieve.tile(kind, d, together), machine.warps)
    lists = blocks * machine.warps
    kernel = catalogue.scan(kind, d, together)
    return Pass(kernel, (blocks, -(-count // together)), count, lists * 32, lists)


def _by_columns(machine: Machine, kind: Kind, n: int, count: int, exact: bool) -> Pass:
    blocks = _blocks(machine, n, retrieve.TILE, machine.warps)
    lists = blocks * machine.warps
    kernel = catalogue.scan(kind, 0, 1)
    if exact:
        return Pass(kernel, (blocks, count), count, max(1, n), 0)
    return Pass(kernel, (blocks, count), count, lists * 32, lists)


def _by_tensor_cores(machine: Machine, n: int, d: int, count: int) -> Pass:
    size = retrieve.TENSOR_QUERIES
    groups = max(g for g in (1, 2, 4) if g <= machine.warps and (g == 1 or (g // 2) * size < count))
    stripes = machine.warps // groups
    blocks = _blocks(machine, n, 16, stripes)
    shelves = -(-count // (groups * size))
    lists = blocks * stripes
    padded = shelves * groups * size
    return Pass(
        catalogue.tensor_scan(d), (blocks, shelves), padded, lists * 32, lists, groups=groups
    )


def _blocks(machine: Machine, n: int, tile: int, warps: int, most: int | None = None) -> int:
    return max(1, min(most or machine.blocks, -(-n // (tile * warps))))


def sorting(m: int, k: int) -> list[Round]:
    """Rounds that leave the k largest of m keys, best first."""
    found: list[Round] = []
    while not found or found[-1].blocks > 1:
        chunk = 64
        while chunk < LARGEST_CHUNK and chunk < max(m, 2 * k):
            chunk *= 2
        blocks = -(-m // chunk)
        found.append(Round(chunk, blocks, m, k))
        m = blocks * k
    return found


def may_be_inexact(first: Pass, k: int) -> bool:
    """Whether the lists can have dropped an entry of the answer."""
    return first.lists > 0 and k > select.LANES
