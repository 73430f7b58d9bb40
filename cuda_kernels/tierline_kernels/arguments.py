"""Checks every argument before any work and brings it to the one form the back ends take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.errors import BadOffsets, IndexOutOfRange, KernelError
from tierline_kernels.layout import MAX_WIDTH, Float32Array, RowwiseInt8, Table

Int64Array = NDArray[np.int64]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))
_INTEGERS = (np.dtype(np.int64), np.dtype(np.int32))


@dataclass(frozen=True, slots=True)
class BagTask:
    """A checked embedding bag: ``offsets`` has one entry more than there are bags."""

    table: Table
    ids: Int64Array
    offsets: Int64Array
    weights: Float32Array | None
    mean: bool
    padding: int | None


@dataclass(frozen=True, slots=True)
class TopkTask:
    """A checked selection over rows ``x``; ``mask`` is [1 or B, n], ``lengths`` is [B]."""

    x: Float32Array
    k: int
    largest: bool
    mask: NDArray[np.bool_] | None
    lengths: Int64Array
    nan_first: bool


@dataclass(frozen=True, slots=True)
class DotTask:
    """A checked retrieval. ``excluded`` holds, per query, sorted ids (CSR with its offsets)."""

    queries: Float32Array
    items: Table
    k: int
    filter_bits: NDArray[np.uint32] | None
    excluded: Int64Array
    excluded_offsets: Int64Array
    boost: Float32Array | None


def check_table(table: Table, name: str = "table") -> Table:
    """The table with contiguous rows; float32, float16 or row-wise int8."""
    if isinstance(table, RowwiseInt8):
        biases = None if table.biases is None else np.ascontiguousarray(table.biases)
        return RowwiseInt8(
            np.ascontiguousarray(table.codes), np.ascontiguousarray(table.scales), biases
        )
    if not isinstance(table, np.ndarray):
        raise KernelError(f"{name} must be a NumPy array or RowwiseInt8, not {type(table)}.")
    if table.ndim != 2 or table.dtype not in _FLOATS:
        raise KernelError(
            f"{name} must be float32 or float16 [n, d], not {table.dtype} {list(table.shape)}."
        )
    if table.shape[1] > MAX_WIDTH:
        raise KernelError(f"{name} rows are {table.shape[1]} wide; at most {MAX_WIDTH}.")
    return aligned(table)


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself, or a copy when its rows are strided or its base is misaligned."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned:  # np.require takes a microsecond to see that
        return array
    return np.require(array, requirements=["C", "A"])


def check_ids(ids: NDArray[Any], rows: int) -> Int64Array:
    """Ids as int64; each must be in [0, rows) or -1 for a pruned row."""
    wide = _integers(ids, "ids")
    # Read as unsigned numbers, pruned ids are the largest there are: one pass settles most calls.
    # Not max(): for a few ids argmax takes a quarter of its time.
    if wide.size and _largest(wide.view(np.uint64)) >= rows:
        low, high = int(wide.min()), int(wide.max())
        if low < -1 or high >= rows:
            bad = low if low < -1 else high
            raise IndexOutOfRange(
                f"id {bad} is outside the table's {rows} rows; use 0 to {rows - 1}, or -1 for a "
                "pruned row."
            )
    return wide


def check_offsets(offsets: NDArray[Any], count: int, include_last: bool) -> Int64Array:
    """Offsets as int64 with the closing entry appended when the caller left it out."""
    wide = _integers(offsets, "offsets")
    if wide.ndim != 1:
        raise BadOffsets(f"offsets must have one dimension, not {wide.ndim}.")
    if include_last and wide.size == 0:
        raise BadOffsets("offsets are empty; with include_last_offset they hold at least one 0.")
    closed = wide if include_last else np.append(wide, count)
    if wide.size and closed[0] != 0:
        raise BadOffsets(f"the first offset is {closed[0]}; bags start at 0.")
    if not include_last and wide.size == 0 and count:
        raise BadOffsets(f"{count} ids belong to no bag; give an offset for each bag.")
    if (np.diff(closed) < 0).any():
        raise BadOffsets(f"offsets must not fall and must stay within the {count} ids.")
    if closed[-1] != count:
        raise BadOffsets(f"the last offset is {closed[-1]}, but there are {count} ids.")
    return closed


def check_weights(weights: NDArray[Any] | None, count: int) -> Float32Array | None:
    """Per-id weights: float32, as many as ids."""
    if weights is None:
        return None
    if weights.dtype != np.float32 or weights.shape != (count,):
        raise KernelError(
            f"weights must be float32 [{count}], not {weights.dtype} {list(weights.shape)}."
        )
    return aligned(weights)


def check_k(k: int) -> int:
    """k as a plain int, at least 0."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise KernelError(f"k must be an integer, not {type(k)}.")
    if k < 0:
        raise KernelError(f"k is {k}; ask for 0 or more.")
    return int(k)


def check_topk(
    x: NDArray[Any],
    k: int,
    largest: bool,
    mask: NDArray[Any] | None,
    row_lengths: NDArray[Any] | None,
    nan: str,
) -> TopkTask:
    """A selection task; raises KernelError also for NaN under ``nan="raise"``."""
    if x.ndim != 2 or x.dtype not in (np.float32, np.float16):
        raise KernelError(f"x must be float32 or float16 [rows, n], not {x.dtype} {list(x.shape)}.")
    if nan not in ("last", "first", "raise"):
        raise KernelError(f'nan is {nan!r}; choose "last", "first" or "raise".')
    rows, n = x.shape
    lengths = _check_lengths(row_lengths, rows, n)
    allowed = _check_mask(mask, rows, n)
    single = aligned(x.astype(np.float32, copy=False))
    if nan == "raise":
        looked_at = np.arange(n) < lengths[:, None]
        if allowed is not None:
            looked_at &= allowed
        if (np.isnan(single) & looked_at).any():
            raise KernelError('x holds NaN; clean it, or pass nan="last" or nan="first".')
    return TopkTask(single, check_k(k), largest, allowed, lengths, nan == "first")


def check_dot(
    queries: NDArray[Any],
    items: Table,
    k: int,
    filter_bits: NDArray[Any] | None,
    exclude: tuple[NDArray[Any], NDArray[Any]] | None,
    boost: NDArray[Any] | None,
) -> DotTask:
    """A retrieval task with sorted exclusion lists."""
    table = check_table(items, "items")
    n, width = table.shape
    if queries.ndim != 2 or queries.dtype not in (np.float32, np.float16):
        raise KernelError(
            f"queries must be float32 or float16 [B, d], not {queries.dtype} {list(queries.shape)}."
        )
    if queries.shape[1] != width:
        raise KernelError(f"queries are {queries.shape[1]} wide, items {width}; widths must agree.")
    if filter_bits is not None:
        words = (n + 31) // 32
        if filter_bits.dtype != np.uint32 or filter_bits.shape != (words,):
            raise KernelError(
                f"filter_bits must be uint32 [{words}] (bit i%32 of word i//32), "
                f"not {filter_bits.dtype} {list(filter_bits.shape)}."
            )
        filter_bits = aligned(filter_bits)
    if boost is not None:
        if boost.dtype != np.float32 or boost.shape != (n,):
            raise KernelError(f"boost must be float32 [{n}], not {boost.dtype} {boost.shape}.")
        boost = aligned(boost)
    excluded, offsets = _check_exclude(exclude, queries.shape[0], n)
    single = aligned(queries.astype(np.float32, copy=False))
    return DotTask(single, table, check_k(k), filter_bits, excluded, offsets, boost)


def check_out(
    out: NDArray[Any] | None,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    sources: tuple[Any, ...],
) -> NDArray[Any]:
    """The array to write to: ``out`` when it fits and shares no memory, else a new one."""
    if out is None:
        return np.empty(shape, dtype)
    if out.dtype != dtype or out.shape != shape:
        raise KernelError(
            f"out must be {np.dtype(dtype)} {list(shape)}, not {out.dtype} {list(out.shape)}."
        )
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise KernelError("out must be contiguous, aligned and writeable.")
    for source in sources:
        for part in _parts(source):
            if np.may_share_memory(out, part):
                raise KernelError("out overlaps an input; give it memory of its own.")
    return out


def _parts(source: Any) -> tuple[NDArray[Any], ...]:
    if source is None:
        return ()
    if isinstance(source, RowwiseInt8):
        arrays = (source.codes, source.scales, source.biases)
        return tuple(part for part in arrays if part is not None)
    return (source,)


def _integers(array: NDArray[Any], name: str) -> Int64Array:
    if array.dtype not in _INTEGERS:
        raise KernelError(f"{name} must be int32 or int64, not {array.dtype}.")
    return aligned(array.astype(np.int64, copy=False))


def _largest(array: NDArray[np.uint64]) -> int:
    largest: int = array.item(array.argmax())
    return largest


def _check_lengths(row_lengths: NDArray[Any] | None, rows: int, n: int) -> Int64Array:
    if row_lengths is None:
        return np.full(rows, n, np.int64)
    lengths = _integers(row_lengths, "row_lengths")
    if lengths.shape != (rows,):
        raise KernelError(f"row_lengths must be [{rows}], not {list(lengths.shape)}.")
    if lengths.size and (lengths.min() < 0 or lengths.max() > n):
        raise KernelError(f"row_lengths must lie between 0 and {n}.")
    return lengths


def _check_mask(mask: NDArray[Any] | None, rows: int, n: int) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    if mask.dtype != np.bool_ or mask.shape not in ((n,), (1, n), (rows, n)):
        raise KernelError(
            f"mask must be bool [{n}] or [{rows}, {n}] (True keeps), "
            f"not {mask.dtype} {list(mask.shape)}."
        )
    return aligned(mask[None] if mask.ndim == 1 else mask)


def _check_exclude(
    exclude: tuple[NDArray[Any], NDArray[Any]] | None, queries: int, rows: int
) -> tuple[Int64Array, Int64Array]:
    if exclude is None:
        return np.empty(0, np.int64), np.zeros(queries + 1, np.int64)
    ids = check_ids(exclude[0], rows)
    offsets = check_offsets(exclude[1], ids.size, include_last=True)
    if offsets.size != queries + 1:
        raise BadOffsets(f"exclude has {offsets.size - 1} lists for {queries} queries.")
    owner = np.repeat(np.arange(queries), np.diff(offsets))
    return ids[np.lexsort((ids, owner))], offsets
