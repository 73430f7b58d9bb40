"""The operations on device memory: planned once, launched any number of times, nothing waited for.

Every class here allocates what it needs when it is made; ``run`` only launches, so that runs can be
captured in one CUDA graph and share a stream with others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.cuda import catalogue, plan, retrieve, rows, select
from tierline_kernels.cuda.driver import Driver, Memory
from tierline_kernels.cuda.rows import Kind
from tierline_kernels.errors import IndexOutOfRange
from tierline_kernels.layout import RowwiseInt8, Table

log = logging.getLogger("tierline.kernels")

# What happens to ids outside a table, which the host cannot see without waiting for them. They are
# never dereferenced: a row outside adds nothing.
BoundsPolicy = Literal["fatal", "warn", "ignore"]

BLOCK = 256  # threads of a block where their number does not matter


class DeviceTable:
    """An embedding table in device memory, float32, float16 or row-wise int8."""

    def __init__(self, driver: Driver, table: Table) -> None:
        self.driver = driver
        self.rows, self.width = table.shape
        self.kind: Kind
        if isinstance(table, RowwiseInt8):
            self.kind, entries = "int8", table.codes
            self.scales: Memory = driver.upload(table.scales, np.float32)
            self.biases: Memory = driver.upload(table.biases, np.float32)
            self.biased = table.biases is not None
        else:
            self.kind = "float16" if table.dtype == np.float16 else "float32"
            entries = table.view(np.uint16) if self.kind == "float16" else table
            self.scales = self.biases = driver.upload(None, np.float32)
            self.biased = False
        self.entries = driver.upload(entries, entries.dtype)


@dataclass(frozen=True, slots=True)
class Bags:
    """Device arrays of one bag call: int64 ids, int64 offsets [bags + 1], float32 weights."""

    ids: Memory
    count: int  # ids
    offsets: Memory | None  # None: a look-up, every id a bag of its own
    bags: int
    weights: Memory | None = None
    mean: bool = False
    padding: int | None = None


class Bag:
    """``embedding_bag`` or, without offsets, ``embedding_lookup`` into float32 [bags, d]."""

    def __init__(
        self, table: DeviceTable, bags: Bags, out: Memory, *, bounds: BoundsPolicy = "ignore"
    ) -> None:
        self.table, self.bags, self.out = table, bags, out
        self._bounds = bounds
        driver = table.driver
        aligned = table.entries.aligned and out.aligned
        self.kernel, per_bag = plan.bag(table.kind, table.width, aligned=aligned)
        threads = driver.machine.threads
        self._grid = (max(1, -(-bags.bags * per_bag // threads)), 1)
        nothing = driver.upload(None, np.float32)
        flags = rows.MEAN * bags.mean | rows.BIASED * table.biased
        flags |= rows.WEIGHTED * (bags.weights is not None) | rows.LOOKUP * (bags.offsets is None)
        self._arguments = (
            table.entries, table.scales, table.biases, bags.ids,
            bags.offsets or driver.upload(None, np.int64), bags.weights or nothing, out,
            table.rows, bags.bags, -2 if bags.padding is None else bags.padding, table.width, flags,
        )  # fmt: skip
        self._found = driver.upload(np.zeros(1, np.int64), np.int64)

    def run(self) -> None:
        """Launch. Raises IndexOutOfRange under the policy "fatal", which waits for the check."""
        driver = self.table.driver
        threads = driver.machine.threads
        if self._bounds != "ignore" and self.bags.count:
            grid = (-(-self.bags.count // threads), 1)
            arguments = (self.bags.ids, self._found, self.bags.count, self.table.rows)
            driver.launch(catalogue.CHECK, grid, threads, *arguments)
            if self._bounds == "fatal" and (problem := self._problem()):
                raise IndexOutOfRange(problem)
        if self.bags.bags:
            driver.launch(self.kernel, self._grid, threads, *self._arguments)

    def report(self) -> None:
        """Log an id that lay outside the table, under the policy "warn"; waits for the stream."""
        if self._bounds == "warn" and (problem := self._problem()):
            log.warning(problem)

    def _problem(self) -> str:
        place = int(self.table.driver.download(self._found, 1, np.int64)[0]) - 1
        if place < 0:
            return ""
        self._found = self.table.driver.upload(np.zeros(1, np.int64), np.int64)
        return (
            f"the id at place {place} is outside the table's {self.table.rows} rows; use 0 to "
            f"{self.table.rows - 1}, or -1 for a pruned row."
        )


class _Best:
    """Second stage: rounds of sorts over keys, then values, indices and certificates."""

    def __init__(self, driver: Driver, first: plan.Pass, count: int, k: int, flags: int) -> None:
        self._driver, self._first, self._count, self._k = driver, first, count, k
        self._flags = flags
        self.keys = driver.empty(first.rows * first.per_row, np.int64)
        self._rounds = plan.sorting(first.per_row, k)
        self._kept = [driver.empty(count * r.blocks * r.keep, np.int64) for r in self._rounds]
        self.values = driver.empty(count * k, np.float32)
        self.indices = driver.empty(count * k, np.int64)
        self.certified: Memory | None = None
        if plan.may_be_inexact(first, k):
            self.certified = driver.empty(count, np.int32)

    def run(self) -> None:
        source, launch = self.keys, self._driver.launch
        for each, kept in zip(self._rounds, self._kept, strict=True):
            grid = (each.blocks, self._count)
            launch(
                catalogue.sort(each.chunk), grid, each.chunk // 2, source, kept, each.m, each.keep
            )
            source = kept
        total = self._count * self._k
        grid = (-(-total // BLOCK), 1)
        launch(catalogue.EMIT, grid, BLOCK, source, self.values, self.indices, total, self._flags)
        if self.certified is not None:
            launch(
                catalogue.CERTIFY, (self._count, 1), 64, self.keys, source, self.certified,
                self._first.per_row, self._first.lists, self._k,
            )  # fmt: skip

    def answer(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """Wait; values and indices [count, k], and which rows are proven exact [count]."""
        shape, total = (self._count, self._k), self._count * self._k
        values = self._driver.download(self.values, total, np.float32).reshape(shape)
        indices = self._driver.download(self.indices, total, np.int64).reshape(shape)
        if self.certified is None:
            return values, indices, np.ones(self._count, np.bool_)
        certified = self._driver.download(self.certified, self._count, np.int32)
        return values, indices, certified != 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Device arrays of one selection: float32 x [count, n], uint8 mask, int64 lengths [count]."""

    x: Memory
    count: int
    n: int
    lengths: Memory
    mask: Memory | None = None
    mask_stride: int = 0  # 0: one mask for all rows
    smallest: bool = False
    nan_first: bool = False

    def only(self, row: int) -> Rows:
        """One of the rows."""
        mask = None if self.mask is None else self.mask.part(row * self.mask_stride, 1)
        x, lengths = self.x.part(row * self.n, 4), self.lengths.part(row, 8)
        return replace(self, x=x, count=1, lengths=lengths, mask=mask, mask_stride=0)


class Selection:
    """``topk`` of rows in device memory; ``exact`` keeps every key instead of the warps' lists."""

    def __init__(self, driver: Driver, x: Rows, k: int, *, exact: bool = False) -> None:
        plan.check(x.n, k)
        self._driver, self._x, self.k = driver, x, k
        aligned = x.x.aligned
        self.first = plan.selection(driver.machine, x.count, x.n, aligned=aligned, exact=exact)
        flags = select.MASKED * (x.mask is not None) | select.SMALLEST * x.smallest
        flags |= select.NAN_AHEAD * x.nan_first
        self._best = _Best(driver, self.first, x.count, k, flags)
        self.values, self.indices = self._best.values, self._best.indices
        self.certified = self._best.certified
        self._arguments = (
            x.x, x.mask or driver.upload(None, np.uint8), x.lengths, self._best.keys, x.n,
            x.mask_stride, self.first.per_row, min(k, select.LANES) - 1, flags,
        )  # fmt: skip

    def run(self) -> None:
        """Launch both stages."""
        machine = self._driver.machine
        self._driver.launch(self.first.kernel, self.first.grid, machine.threads, *self._arguments)
        self._best.run()

    def answer(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Wait and download values and indices; a row that is not proven exact is done anew."""
        values, indices, certified = self._best.answer()
        for row in np.flatnonzero(~certified):
            again = Selection(self._driver, self._x.only(int(row)), self.k, exact=True)
            again.run()
            (values[row],), (indices[row],) = again.answer()
        return values, indices


@dataclass(frozen=True, slots=True)
class Rules:
    """Device arrays of what may be returned: see ``dot_topk``."""

    filter_bits: Memory | None = None
    excluded: Memory | None = None
    excluded_offsets: Memory | None = None
    boost: Memory | None = None

    @property
    def flags(self) -> int:
        """The bits that ask a kernel for them."""
        wanted = (
            (self.filter_bits, retrieve.FILTERED),
            (self.excluded, retrieve.EXCLUDING),
            (self.boost, retrieve.BOOSTED),
        )
        return sum(bit for memory, bit in wanted if memory is not None)

    def only(self, query: int) -> Rules:
        """The rules for one of the queries."""
        offsets = self.excluded_offsets
        return replace(self, excluded_offsets=offsets and offsets.part(query, 8))


class Retrieval:
    """``dot_topk`` of float32 queries [count, d] against a table, all in device memory."""

    def __init__(
        self, items: DeviceTable, queries: Memory, count: int, k: int, rules: Rules = Rules(),
        *, exact: bool = False,
    ) -> None:  # fmt: skip
        plan.check(items.rows, k)
        self._k, self._rules = k, rules
        driver = self._driver = items.driver
        self.first = plan.retrieval(
            driver.machine, items.kind, items.rows, items.width, count,
            aligned=items.entries.aligned, exact=exact,
        )  # fmt: skip
        self._count, self._items, self._queries = count, items, queries
        self._best = _Best(driver, self.first, count, k, 0)
        self.values, self.indices = self._best.values, self._best.indices
        self.certified = self._best.certified
        nothing = driver.upload(None, np.float32)
        self._codes, self._scales, self._sums = queries, nothing, nothing
        if items.kind == "int8":
            self._codes = driver.empty(self.first.rows * items.width, np.int8)
            self._scales = driver.empty(self.first.rows, np.float32)
            self._sums = driver.empty(self.first.rows, np.float32)
        flags = rules.flags | retrieve.BIASED * items.biased | retrieve.UNLISTED * exact
        longs = driver.upload(None, np.int64)
        self._arguments = (
            items.entries, items.scales, items.biases, self._codes, self._scales, self._sums,
            rules.filter_bits or driver.upload(None, np.uint32), rules.excluded or longs,
            rules.excluded_offsets or longs, rules.boost or nothing, self._best.keys,
            items.rows, count, self.first.per_row, items.width, self.first.groups,
            min(k, select.LANES) - 1, flags,
        )  # fmt: skip

    def run(self) -> None:
        """Launch: queries to int8 where the table is, the scan, and the second stage."""
        launch, threads = self._driver.launch, self._driver.machine.threads
        if self._items.kind == "int8":
            launch(
                catalogue.QUANTIZE, (self.first.rows, 1), 32, self._queries, self._codes,
                self._scales, self._sums, self._items.width, self._count,
            )  # fmt: skip
        launch(self.first.kernel, self.first.grid, threads, *self._arguments)
        self._best.run()

    def answer(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """As ``Selection.answer``."""
        values, indices, certified = self._best.answer()
        for row in np.flatnonzero(~certified):
            query = self._queries.part(int(row) * self._items.width, 4)
            rules = self._rules.only(int(row))
            again = Retrieval(self._items, query, 1, self._k, rules, exact=True)
            again.run()
            (values[row],), (indices[row],) = again.answer()
        return values, indices
