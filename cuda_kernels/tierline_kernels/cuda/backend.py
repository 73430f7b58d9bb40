"""The CUDA back end for host arrays: each call uploads what it needs and downloads the answer.

Under Numba's simulator (NUMBA_ENABLE_CUDASIM=1) the same kernels run as Python.
"""

from __future__ import annotations

import numpy as np

from tierline_kernels.arguments import BagTask, DotTask, Int64Array, TopkTask
from tierline_kernels.cuda.device import Bag, Bags, DeviceTable, Retrieval, Rows, Rules, Selection
from tierline_kernels.cuda.driver import default_driver
from tierline_kernels.errors import BackEndMissing
from tierline_kernels.layout import Float32Array, RowwiseInt8, Table

try:
    default_driver()
except BackEndMissing as problem:
    raise ImportError(str(problem)) from problem


def lookup(table: Table, ids: Int64Array, out: Float32Array) -> None:
    """See ``embedding_lookup``."""
    _pool(table, ids, None, out, None)


def bag(task: BagTask, out: Float32Array) -> None:
    """See ``embedding_bag``."""
    _pool(task.table, task.ids, task.offsets, out, task)


def _pool(
    table: Table, ids: Int64Array, offsets: Int64Array | None, out: Float32Array,
    task: BagTask | None,
) -> None:  # fmt: skip
    if table.shape[0] == 0:
        out[...] = 0.0  # checked ids: all pruned
        return
    driver = default_driver()
    weights = None if task is None else task.weights
    bags = Bags(
        driver.upload(ids, np.int64), len(ids),
        None if offsets is None else driver.upload(offsets, np.int64), len(out),
        None if weights is None else driver.upload(weights, np.float32),
        mean=task is not None and task.mean, padding=None if task is None else task.padding,
    )  # fmt: skip
    result = driver.empty(out.size, np.float32)
    Bag(DeviceTable(driver, table), bags, result).run()
    out[...] = driver.download(result, out.size, np.float32).reshape(out.shape)


def topk(task: TopkTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``topk``."""
    count, n = task.x.shape
    if indices.size == 0:
        return
    driver = default_driver()
    mask = None if task.mask is None else driver.upload(task.mask.view(np.uint8), np.uint8)
    x = Rows(
        driver.upload(task.x, np.float32), count, n, driver.upload(task.lengths, np.int64), mask,
        mask_stride=0 if task.mask is None or len(task.mask) == 1 else n,
        smallest=not task.largest, nan_first=task.nan_first,
    )  # fmt: skip
    selection = Selection(driver, x, task.k)
    selection.run()
    values[...], indices[...] = selection.answer()


def dot_topk(task: DotTask, values: Float32Array, indices: Int64Array) -> None:
    """See ``dot_topk``."""
    count, k = indices.shape
    if indices.size == 0:
        return
    driver = default_driver()
    excluding = task.excluded.size > 0
    rules = Rules(
        None if task.filter_bits is None else driver.upload(task.filter_bits, np.uint32),
        driver.upload(task.excluded, np.int64) if excluding else None,
        driver.upload(task.excluded_offsets, np.int64) if excluding else None,
        None if task.boost is None else driver.upload(task.boost, np.float32),
    )
    queries = driver.upload(task.queries, np.float32)
    retrieval = Retrieval(DeviceTable(driver, task.items), queries, count, k, rules)
    retrieval.run()
    values[...], indices[...] = retrieval.answer()


def dot_topk_int8(
    task: DotTask, query_codes: RowwiseInt8, values: Float32Array, indices: Int64Array
) -> None:
    """See ``dot_topk``: the device quantises the queries to the same codes."""
    del query_codes
    dot_topk(task, values, indices)
