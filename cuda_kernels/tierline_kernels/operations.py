"""The four operations: arguments checked, a back end chosen for this call, one meaning on all."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import arguments
from tierline_kernels.arguments import BagTask, DotTask, Int64Array, TopkTask
from tierline_kernels.errors import BackEndMissing, KernelError
from tierline_kernels.layout import Float32Array, RowwiseInt8, Table, quantize_rows

BackEndName = Literal["reference", "cpu", "cuda"]

_MODULES = {"reference": "reference", "cpu": "cpu", "cuda": "cuda.backend"}

# How many int8 candidates an exact rescoring looks at, in multiples of k.
RESCORE_FACTOR = 4


class TopK(NamedTuple):
    """The best ``k`` of each row, best first; a place nobody took holds index -1."""

    values: Float32Array
    indices: Int64Array


class BackEnd(Protocol):
    """What reference, cpu and cuda each provide; arguments are checked already."""

    def lookup(self, table: Table, ids: Int64Array, out: Float32Array) -> None: ...

    def bag(self, task: BagTask, out: Float32Array) -> None: ...

    def topk(self, task: TopkTask, values: Float32Array, indices: Int64Array) -> None: ...

    def dot_topk(self, task: DotTask, values: Float32Array, indices: Int64Array) -> None: ...

    def dot_topk_int8(
        self, task: DotTask, query_codes: RowwiseInt8, values: Float32Array, indices: Int64Array
    ) -> None: ...


@cache
def default_backend() -> BackEndName:
    """The back end for host arrays here: "cpu" where Numba is installed, else "reference"."""
    return "cpu" if find_spec("numba") else "reference"


def embedding_lookup(
    table: Table,
    ids: NDArray[Any],
    *,
    out: Float32Array | None = None,
    backend: BackEndName | None = None,
) -> Float32Array:
    """Rows of ``table`` as float32 ``[*ids.shape, d]``; id -1 (a pruned row) gives zeros.

    Raises KernelError, IndexOutOfRange or BackEndMissing before any work.
    """
    chosen = _backend(backend)
    table = arguments.check_table(table)
    wide = arguments.check_ids(ids, table.shape[0])
    shape = (*wide.shape, table.shape[1])
    result = arguments.check_out(out, shape, np.float32, (table, ids))
    if result.size:
        chosen.lookup(table, wide.reshape(-1), result.reshape(-1, table.shape[1]))
    return result


def embedding_bag(
    table: Table,
    ids: NDArray[Any],
    offsets: NDArray[Any],
    *,
    weights: Float32Array | None = None,
    mode: Literal["sum", "mean"] = "sum",
    padding_index: int | None = None,
    include_last_offset: bool = False,
    out: Float32Array | None = None,
    backend: BackEndName | None = None,
) -> Float32Array:
    """Pool the rows of each bag: float32 ``[bags, d]``; an empty bag gives zeros.

    ``ids`` are flat; bag b takes ``ids[offsets[b]:offsets[b + 1]]``, the last one the rest. With
    ``include_last_offset`` the offsets close with ``len(ids)``. ``weights`` scale each row; a
    mean divides by the number of ids. ``padding_index`` is left out of sum and count; a pruned
    id (-1) adds zeros but counts. Raises KernelError, IndexOutOfRange, BadOffsets or
    BackEndMissing before any work.
    """
    chosen = _backend(backend)
    if mode not in ("sum", "mean"):
        raise KernelError(f'mode is {mode!r}; choose "sum" or "mean".')
    table = arguments.check_table(table)
    if ids.ndim != 1:
        raise KernelError(f"ids of bags must be flat, not {list(ids.shape)}.")
    wide = arguments.check_ids(ids, table.shape[0])
    closed = arguments.check_offsets(offsets, wide.size, include_last_offset)
    scale = arguments.check_weights(weights, wide.size)
    shape = (closed.size - 1, table.shape[1])
    result = arguments.check_out(out, shape, np.float32, (table, ids, offsets, weights))
    if result.size:
        chosen.bag(BagTask(table, wide, closed, scale, mode == "mean", padding_index), result)
    return result


def topk(
    x: NDArray[Any],
    k: int,
    *,
    largest: bool = True,
    mask: NDArray[np.bool_] | None = None,
    row_lengths: NDArray[Any] | None = None,
    nan: Literal["last", "first", "raise"] = "last",
    out: tuple[Float32Array, Int64Array] | None = None,
    backend: BackEndName | None = None,
) -> TopK:
    """The k largest (or smallest) numbers of each row of ``x`` ``[rows, n]``, best first.

    Ties go to the lowest index, also between -0 and +0. ``mask`` keeps where True, ``[n]`` or
    ``[rows, n]``; ``row_lengths`` ``[rows]`` cuts rows short. ``nan="last"`` returns a NaN only
    when no number is left, ``"first"`` puts NaN ahead of every number. k may exceed n: the tail
    holds -inf (+inf when smallest) and index -1. Raises KernelError or BackEndMissing before any
    work.
    """
    chosen = _backend(backend)
    task = arguments.check_topk(x, k, largest, mask, row_lengths, nan)
    shape = (len(x), task.k)
    values = arguments.check_out(out and out[0], shape, np.float32, (x, mask, row_lengths))
    indices = arguments.check_out(out and out[1], shape, np.int64, (x, mask, row_lengths, values))
    chosen.topk(task, values, indices)
    return TopK(values, indices)


def dot_topk(
    queries: NDArray[Any],
    items: Table,
    k: int,
    *,
    filter_bits: NDArray[np.uint32] | None = None,
    exclude: tuple[NDArray[Any], NDArray[Any]] | None = None,
    boost: Float32Array | None = None,
    rescore: NDArray[Any] | None = None,
    backend: BackEndName | None = None,
) -> TopK:
    """The k items ``[n, d]`` with the largest inner product with each query ``[B, d]``.

    Int8 items are met by an int8 query (quantised here, symmetric, per row), so dot products are
    exact integers and ids are equal on every back end; ``rescore`` (the float items) then orders
    the best 4k of them by the exact product. ``filter_bits`` uint32 ``[ceil(n / 32)]`` allows
    item i where bit ``i % 32`` of word ``i // 32`` is 1. ``exclude`` is ``(ids, offsets)``, one
    list a query, ``B + 1`` offsets, -1 ignored. ``boost`` float32 ``[n]`` is added to scores. Ties
    go to the lowest index; an item that scores NaN is never returned; places nobody took hold
    -inf and -1. Raises KernelError, IndexOutOfRange, BadOffsets or BackEndMissing before any work.
    """
    chosen = _backend(backend)
    task = arguments.check_dot(queries, items, k, filter_bits, exclude, boost)
    if rescore is None:
        return _retrieve(chosen, task, task.k)
    exact = arguments.check_table(rescore, "rescore")
    if isinstance(exact, RowwiseInt8) or exact.shape != task.items.shape:
        raise KernelError(
            f"rescore must be the float items {list(task.items.shape)} that were quantised."
        )
    return _rescore(task, exact, _retrieve(chosen, task, RESCORE_FACTOR * task.k).indices)


def warm_up(backend: BackEndName | None = None) -> None:
    """Compile, or load from the cache, every kernel of a back end before traffic needs them."""
    table = np.ones((4, 8), np.float32)
    ids = np.array([0, 1, 2], np.int64)
    offsets = np.array([0, 2], np.int64)
    for each in (table, table.astype(np.float16), quantize_rows(table)):
        embedding_lookup(each, ids, backend=backend)
        embedding_bag(each, ids, offsets, backend=backend)
        dot_topk(table, each, 2, backend=backend)
    topk(table, 2, backend=backend)


def _backend(name: BackEndName | None) -> BackEnd:
    return _imported(name or default_backend())


@cache
def _imported(chosen: BackEndName) -> BackEnd:
    if chosen not in _MODULES:
        raise KernelError(f'backend is {chosen!r}; choose "reference", "cpu" or "cuda".')
    try:
        module: Any = import_module("tierline_kernels." + _MODULES[chosen])
    except ImportError as problem:
        raise BackEndMissing(
            f'The "{chosen}" back end cannot run here ({problem}); install tierline[kernels], or '
            'pass backend="reference".'
        ) from problem
    found: BackEnd = module
    return found


def _retrieve(chosen: BackEnd, task: DotTask, k: int) -> TopK:
    task = DotTask(
        task.queries, task.items, k, task.filter_bits, task.excluded, task.excluded_offsets,
        task.boost,
    )  # fmt: skip
    values = np.empty((len(task.queries), k), np.float32)
    indices = np.empty((len(task.queries), k), np.int64)
    if isinstance(task.items, RowwiseInt8):
        chosen.dot_topk_int8(task, quantize_rows(task.queries), values, indices)
    else:
        chosen.dot_topk(task, values, indices)
    return TopK(values, indices)


def _rescore(task: DotTask, exact: NDArray[Any], candidates: Int64Array) -> TopK:
    values = np.full((len(candidates), task.k), -np.inf, np.float32)
    indices = np.full((len(candidates), task.k), -1, np.int64)
    for b, row in enumerate(candidates):
        ids = row[row >= 0]
        with np.errstate(invalid="ignore", over="ignore"):
            scores = (exact[ids].astype(np.float64) @ task.queries[b].astype(np.float64)).astype(
                np.float32
            )
            if task.boost is not None:
                scores = scores + task.boost[ids]
        ids, scores = ids[~np.isnan(scores)], scores[~np.isnan(scores)]
        order = np.lexsort((ids, -scores))[: task.k]
        values[b, : len(order)] = scores[order]
        indices[b, : len(order)] = ids[order]
    return TopK(values, indices)
