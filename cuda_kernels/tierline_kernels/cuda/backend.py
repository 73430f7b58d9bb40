"""The CUDA back end: kernels built for a shape on first use, launched with plain pointers.

Arrays here are on the host: each call uploads what it needs and downloads the answer. Under
Numba's simulator (NUMBA_ENABLE_CUDASIM=1) the same kernels run as Python.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.arguments import BagTask, DotTask, Int64Array, TopkTask
from tierline_kernels.cuda import rows, select
from tierline_kernels.cuda.intrinsics import SIMULATED, cuda
from tierline_kernels.cuda.rows import Kind
from tierline_kernels.errors import KernelError
from tierline_kernels.layout import Float32Array, RowwiseInt8, Table

if SIMULATED:
    from tierline_kernels.cuda import simulator

    simulator.install()
elif not cuda.is_available():
    raise ImportError("no CUDA device or driver")

# Threads of a block; the simulator runs each as a Python thread.
THREADS = 64 if SIMULATED else 256
# Blocks that share one row or one scan: two for each processor of an H200.
MOST_BLOCKS = 264
# A block sorts at most this many keys in shared memory (16 KiB), and halves them at least.
LARGEST_CHUNK = 2048
MAX_K = LARGEST_CHUNK // 2


class _Upload:
    """Device copies of host arrays, as the pointers kernels take; alive while this is."""

    def __init__(self) -> None:
        self._alive: list[Any] = []

    def __call__(self, array: NDArray[Any] | None, dtype: Any) -> Any:
        flat = np.zeros(1, dtype) if array is None or array.size == 0 else array.reshape(-1)
        return self._pointer(np.array(flat, copy=True) if SIMULATED else cuda.to_device(flat))

    def empty(self, count: int, dtype: Any) -> tuple[Any, Any]:
        """An output and its pointer."""
        make = np.empty if SIMULATED else cuda.device_array
        array = make(max(1, count), dtype)
        return array, self._pointer(array)

    def _pointer(self, array: Any) -> Any:
        self._alive.append(array)
        return array if SIMULATED else array.device_ctypes_pointer.value


def _host(array: Any, count: int) -> NDArray[Any]:
    return np.asarray(array if SIMULATED else array.copy_to_host())[:count]


def _compile(function: Any, signature: Any) -> Any:
    return cuda.jit(function) if SIMULATED else cuda.jit(signature)(function)


@cache
def _bag_kernel(kind: Kind, d: int, mean: bool, weighted: bool, biased: bool, pieces: bool) -> Any:
    made = rows.make_bag(kind, d, mean=mean, weighted=weighted, biased=biased, pieces=pieces)
    return _compile(made, rows.bag_signature(kind))


@cache
def _keys_kernel(keep: select.Keep, masked: bool, largest: bool, nan_first: bool) -> Any:
    made = select.make_keys(keep=keep, masked=masked, largest=largest, nan_first=nan_first)
    return _compile(made, select.KEYS_SIGNATURE)


@cache
def _sort_kernel(chunk: int) -> Any:
    return _compile(select.make_sort(chunk), select.SORT_SIGNATURE)


@cache
def _dot_kernel(
    kind: Kind, d: int, keep: select.Keep, biased: bool, filtered: bool, excluding: bool,
    boosted: bool, pieces: bool,
) -> Any:  # fmt: skip
    made = select.make_dot(
        kind, d, keep=keep, biased=biased, filtered=filtered, excluding=excluding,
        boosted=boosted, pieces=pieces,
    )  # fmt: skip
    return _compile(made, select.dot_signature(kind))


def _parts(table: Table) -> tuple[Kind, NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Kind, entries as kernels load them, scales and biases."""
    if isinstance(table, RowwiseInt8):
        return "int8", table.codes, table.scales, table.biases
    if table.dtype == np.float16:
        return "float16", table.view(np.uint16), None, None
    return "float32", table, None, None


def lookup(table: Table, ids: Int64Array, out: Float32Array) -> None:
    """See ``embedding_lookup``: a bag of one id each."""
    bag(BagTask(table, ids, np.arange(len(ids) + 1), None, False, None), out)


def bag(task: BagTask, out: Float32Array) -> None:
    """See ``embedding_bag``."""
    kind, entries, scales, biases = _parts(task.table)
    d = out.shape[1]
    pieces = d % rows.PIECE[kind] == 0
    kernel = _bag_kernel(kind, d, task.mean, task.weights is not None, biases is not None, pieces)
    up = _Upload()
    result, pointer = up.empty(out.size, np.float32)
    arguments = (
        up(entries, entries.dtype), up(scales, np.float32), up(biases, np.float32),
        up(task.ids, np.int64), up(task.offsets, np.int64), up(task.weights, np.float32), pointer,
        len(entries), len(out), -2 if task.padding is None else task.padding,
    )  # fmt: skip
    work = out.size // (rows.PIECE[kind] if pieces else 1)
    kernel[-(-work // THREADS), THREADS](*arguments)
    out[...] = _host(result, out.size).reshape(out.shape)


def topk(task: TopkTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``topk``."""
    count, n = task.x.shape
    if count == 0 or task.k == 0:
        return
    _check_size(n)
    up = _Upload()
    keep = _keep(task.k)
    kernel = _keys_kernel(keep, task.mask is not None, task.largest, task.nan_first)
    blocks, per_row = _grid(n, 32, keep)
    keys, pointer = up.empty(count * per_row, np.int64)
    mask = None if task.mask is None else task.mask.view(np.uint8)
    stride = 0 if task.mask is None or len(task.mask) == 1 else n
    kernel[(blocks, count), THREADS](
        up(task.x, np.float32), up(mask, np.uint8), up(task.lengths, np.int64), pointer,
        n, stride, per_row,
    )  # fmt: skip
    best = _best(up, keys, count, per_row, task.k)
    places = _places(best)
    indices[...] = places
    values[...] = -np.inf if task.largest else np.inf
    row, column = np.nonzero(places >= 0)
    values[row, column] = task.x[row, places[row, column]]


def dot_topk(task: DotTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``dot_topk``."""
    _retrieve(task, task.queries, None, None, values, indices)


def dot_topk_int8(
    task: DotTask, query_codes: RowwiseInt8, values: Float32Array, indices: Int64Array
) -> None:
    """See ``dot_topk``."""
    sums = query_codes.codes.sum(axis=1, dtype=np.int64).astype(np.float32)
    _retrieve(task, query_codes.codes, query_codes.scales, sums, values, indices)


def _retrieve(
    task: DotTask,
    queries: NDArray[Any],
    query_scales: Float32Array | None,
    query_sums: Float32Array | None,
    values: Float32Array,
    indices: Int64Array,
) -> None:
    count, k = indices.shape
    if count == 0 or k == 0:
        return
    kind, entries, scales, biases = _parts(task.items)
    n, d = entries.shape
    _check_size(n)
    keep = _keep(k)
    lanes = select.lanes_per_row(kind, d)
    filtered, excluding = task.filter_bits is not None, task.excluded.size > 0
    kernel = _dot_kernel(
        kind, d, keep, biases is not None, filtered, excluding, task.boost is not None, lanes > 0
    )
    blocks, per_query = _grid(n, 32 // max(1, lanes), keep)
    up = _Upload()
    keys, pointer = up.empty(count * per_query, np.int64)
    kernel[(blocks, count), THREADS](
        up(entries, entries.dtype), up(scales, np.float32), up(biases, np.float32),
        up(queries, queries.dtype), up(query_scales, np.float32), up(query_sums, np.float32),
        up(task.filter_bits, np.uint32), up(task.excluded, np.int64),
        up(task.excluded_offsets, np.int64), up(task.boost, np.float32), pointer, n, per_query,
    )  # fmt: skip
    best = _best(up, keys, count, per_query, k)
    indices[...] = _places(best)
    values[...] = _scores(best)


def _keep(k: int) -> select.Keep:
    if k > MAX_K:
        raise KernelError(f'k is {k}; the "cuda" back end selects at most {MAX_K}.')
    return "list" if k <= select.LANES else "all"


def _check_size(n: int) -> None:
    if n > 0xFFFFFFFF:
        raise KernelError(f'rows hold {n} numbers; the "cuda" back end indexes at most 2**32 - 1.')


def _grid(n: int, rows_at_once: int, keep: select.Keep) -> tuple[int, int]:
    """Blocks along a row, and how many keys they write for it."""
    warps = THREADS // 32
    blocks = max(1, min(MOST_BLOCKS, -(-n // (rows_at_once * warps))))
    return blocks, blocks * THREADS if keep == "list" else max(1, n)


def _best(up: _Upload, keys: Any, count: int, m: int, k: int) -> Int64Array:
    """The k largest keys of each of ``count`` rows of m, by rounds of block sorts."""
    chunk = max(64, 1 << (2 * k - 1).bit_length())
    while True:
        blocks = -(-m // chunk)
        keep = min(k, chunk)
        best, pointer = up.empty(count * blocks * keep, np.int64)
        source = keys if SIMULATED else keys.device_ctypes_pointer.value
        _sort_kernel(chunk)[(blocks, count), chunk // 2](source, pointer, m, keep)
        if blocks == 1:
            return _host(best, count * keep).reshape(count, keep)
        keys, m = best, blocks * keep


def _places(keys: Int64Array) -> Int64Array:
    found = 0xFFFFFFFF - (keys & 0xFFFFFFFF)
    return np.where(keys == select.NOBODY, -1, found)


def _scores(keys: Int64Array) -> Float32Array:
    words = keys >> 32
    bits = np.where(words < 0, words ^ 0x7FFFFFFF, words).astype(np.int32)
    return np.where(keys == select.NOBODY, np.float32(-np.inf), bits.view(np.float32))
