"""Names every kernel: what makes it, its signature, and what its machine code must look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from tierline_kernels.cuda import quantize, retrieve, rows, select, tensor
from tierline_kernels.cuda.rows import Kind

KINDS: tuple[Kind, ...] = ("float32", "float16", "int8")
# The widths whose machine code is built ahead; others are compiled on first use.
WIDTHS = (32, 64, 128, 256)
CHUNKS = (64, 128, 256, 512, 1024, 2048)
TENSOR_SINCE = (8, 0)


@dataclass(frozen=True)
class Kernel:
    """One kernel before it is compiled; two with one name are the same."""

    name: str
    make: Callable[[], Any]
    signature: Any
    wide: bool = False  # must load 16 bytes at once
    registers: int = 64  # may use at most
    since: tuple[int, int] = (7, 5)
    tensor: bool = False  # must use tensor cores


@cache
def bag(kind: Kind, d: int) -> Kernel:
    """Bags and look-ups; width 0 is the kernel for any width and alignment."""
    signature = rows.bag_signature(kind)
    if d == 0:
        return Kernel(f"bag_{kind}_columns", partial(rows.make_bag_columns, kind), signature)
    return Kernel(f"bag_{kind}_{d}", partial(rows.make_bag, kind, d), signature, wide=True)


@cache
def scan(kind: Kind, d: int, queries: int) -> Kernel:
    """Retrieval by vector arithmetic; width 0 as for ``bag``."""
    signature = retrieve.scan_signature(kind)
    if d == 0:
        make: Callable[[], Any] = partial(retrieve.make_scan_columns, kind)
        return Kernel(f"scan_{kind}_columns", make, signature, registers=96)
    # Devices before 9.0 get more registers from the assembler for several queries; a block of 256
    # threads still fits, and its loads in flight are enough for their slower memory.
    return Kernel(
        f"scan_{kind}_{d}_by{queries}", partial(retrieve.make_scan, kind, d, queries), signature,
        wide=True, registers=96 if queries == 1 else 224,
    )  # fmt: skip


@cache
def tensor_scan(d: int) -> Kernel:
    """Retrieval from int8 items on tensor cores, 8 queries a warp."""
    signature = retrieve.scan_signature("int8")
    return Kernel(
        f"tensor_{d}", partial(tensor.make_tensor_scan, d), signature, wide=True, registers=168,
        since=TENSOR_SINCE, tensor=True,
    )  # fmt: skip


@cache
def keys(per: int) -> Kernel:
    """Selection's first stage; 4 entries a load, 1, or 0 for every key without lists."""
    if per == 0:
        return Kernel("keys_all", select.make_all_keys, select.KEYS_SIGNATURE)
    make = partial(select.make_keys, per)
    return Kernel(f"keys_by{per}", make, select.KEYS_SIGNATURE, wide=per == 4, registers=96)


@cache
def sort(chunk: int) -> Kernel:
    """Selection's second stage."""
    return Kernel(f"sort_{chunk}", partial(select.make_sort, chunk), select.SORT_SIGNATURE)


EMIT = Kernel("emit", select.make_emit, select.EMIT_SIGNATURE)
CERTIFY = Kernel("certify", select.make_certify, select.CERTIFY_SIGNATURE)
CHECK = Kernel("check", rows.make_check, rows.CHECK_SIGNATURE)
QUANTIZE = Kernel("quantize", quantize.make_quantize, quantize.QUANTIZE_SIGNATURE)


def kernels(widths: tuple[int, ...] = WIDTHS) -> Iterator[Kernel]:
    """Every kernel that is built ahead."""
    for kind in KINDS:
        yield bag(kind, 0)
        yield scan(kind, 0, 1)
        for d in widths:
            if d % rows.PIECE[kind] == 0:
                yield bag(kind, d)
            if retrieve.lanes_per_row(kind, d):
                yield scan(kind, d, 1)
                yield scan(kind, d, retrieve.TOGETHER)
    for d in widths:
        if d % 64 == 0:
            yield tensor_scan(d)
    for per in (0, 1, 4):
        yield keys(per)
    for chunk in CHUNKS:
        yield sort(chunk)
    yield from (EMIT, CERTIFY, CHECK, QUANTIZE)
