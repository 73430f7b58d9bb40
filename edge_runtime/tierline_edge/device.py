"""The item rows in a GPU's memory: look-up, encoder and retrieval on one stream, by address.

Ids go in and answers come out through the host; embedded histories and states do not. Written and
tested without a GPU (Numba's simulator, a stand-in session): nothing here has been timed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_edge.embeddings import Lists, part_of
from tierline_edge.session import Session
from tierline_kernels import KernelError, RowwiseInt8, dot_topk
from tierline_kernels.cuda.device import Bag, Bags, DeviceTable, Retrieval, Rules
from tierline_kernels.cuda.driver import Device, Driver, Graph, Memory, default_driver
from tierline_kernels.cuda.plan import MAX_K
from tierline_kernels.operations import TopK

# Shapes kept planned: what one node is asked for differs by a few powers of two.
PLANS = 8
ROWS_TOGETHER = 64  # at most: a row's lists take half a megabyte of device memory
LEAST_K, LEAST_EXCLUDED = 32, 64


class DeviceItems:
    """What ``ItemTable`` answers, from device memory; also runs the encoder there."""

    backend = "cuda"

    def __init__(self, rows: RowwiseInt8 | NDArray[Any], driver: Driver | None = None) -> None:
        """Copies the rows to the device. Raises BackEndMissing without one."""
        self.driver = driver or default_driver()
        self.table = DeviceTable(self.driver, rows)
        self.rows = rows
        self._plans: OrderedDict[tuple[object, ...], Recommendation] = OrderedDict()

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [*ids.shape, d]; the row of id 0 is all zeros by construction."""
        shape = (*ids.shape, self.table.width)
        if ids.size == 0:
            return np.empty(shape, np.float32)
        out = self._look_up(ids)
        found: NDArray[np.float32] = self.driver.download(out, ids.size * shape[-1], np.float32)
        return found.reshape(shape)

    def _look_up(self, ids: NDArray[np.int64]) -> Memory:
        out = self.driver.empty(ids.size * self.table.width, np.float32)
        flat = self.driver.upload(ids, np.int64)
        Bag(self.table, Bags(flat, ids.size, None, ids.size), out).run()
        return out

    def encode(
        self, session: Session, ids: NDArray[np.int64], names: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """The encoder's outputs for left-padded ids [B, L]: the state [B, d], then doubts [B]."""
        count, width = len(ids), self.table.width
        mask = self.driver.upload((ids > 0).astype(np.float32), np.float32)
        inputs = {
            "embedded": (self._look_up(ids).address, (*ids.shape, width)),
            "mask": (mask.address, ids.shape),
        }
        shapes: list[tuple[int, ...]] = [(count, width), *[(count,)] * (len(names) - 1)]
        memories = [self.driver.empty(int(np.prod(shape)), np.float32) for shape in shapes]
        outputs = {
            name: (memory.address, shape)
            for name, memory, shape in zip(names, memories, shapes, strict=True)
        }
        session.run_bound(inputs, outputs)
        return [
            self.driver.download(memory, int(np.prod(shape)), np.float32).reshape(shape)
            for memory, shape in zip(memories, shapes, strict=True)
        ]

    def recommend(
        self, session: Session, ids: NDArray[np.int64], names: Sequence[str], k: int, exclude: Lists
    ) -> tuple[list[NDArray[np.float32]], TopK]:
        """The encoder's outputs for left-padded ids [B, L], and the k best items of each row: one
        plan, in which states never leave the device. Always with the same session. Beyond MAX_K
        items, more than the kernels select, the host's twin answers from the device's states."""
        if k > MAX_K:
            outputs = self.encode(session, ids, names)
            return outputs, dot_topk(outputs[0], self.rows, k, exclude=exclude, backend="cpu")
        rows = min(ROWS_TOGETHER, _power_of_two(len(ids)))
        parts = [
            self._recommend(
                session, ids[low : low + rows], rows, names, k, part_of(exclude, low, rows)
            )
            for low in range(0, len(ids), rows)
        ]
        if len(parts) == 1:
            return parts[0]
        outputs = [np.concatenate(each) for each in zip(*(part[0] for part in parts), strict=True)]
        values = np.concatenate([found.values for _, found in parts])
        return outputs, TopK(values, np.concatenate([found.indices for _, found in parts]))

    def _recommend(
        self, session: Session, ids: NDArray[np.int64], rows: int, names: Sequence[str], k: int,
        exclude: Lists,
    ) -> tuple[list[NDArray[np.float32]], TopK]:  # fmt: skip
        """As ``recommend`` for at most ``rows`` rows; rows of padding alone fill them up."""
        count, (banned, offsets) = len(ids), exclude
        plan = self._plan(session, (rows, ids.shape[1]), names, k, len(banned))
        padded = np.zeros(plan.shape, np.int64)
        padded[:count] = ids
        ends = np.full(rows + 1, len(banned), np.int64)
        ends[: count + 1] = offsets
        plan.fill(padded, (banned, ends))
        plan.replay()
        outputs, found = plan.answer()
        return (
            [output[:count] for output in outputs],
            TopK(found.values[:count, :k], found.indices[:count, :k]),
        )

    def _plan(
        self, session: Session, shape: tuple[int, int], names: Sequence[str], k: int, excluded: int
    ) -> Recommendation:
        """A plan for the next powers of two; the one unused for longest makes room."""
        k, most = _power_of_two(max(k, LEAST_K)), _power_of_two(max(excluded, LEAST_EXCLUDED))
        key = (shape, tuple(names), k, most)
        plan = self._plans.pop(key, None)
        if plan is None:
            plan = Recommendation(self, session, names, shape, k, most)
        self._plans[key] = plan
        if len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        return plan

    def best(self, hidden: NDArray[np.float32], k: int, exclude: Lists) -> TopK:
        """The k items with the largest inner product with each state [B, d], none excluded."""
        ids, offsets = exclude
        owner = np.repeat(np.arange(len(hidden)), np.diff(offsets))
        rules = Rules(
            excluded=self.driver.upload(ids[np.lexsort((ids, owner))], np.int64),
            excluded_offsets=self.driver.upload(offsets, np.int64),
        )
        queries = self.driver.upload(hidden, np.float32)
        retrieval = Retrieval(self.table, queries, len(hidden), k, rules)
        retrieval.run()
        return TopK(*retrieval.answer())


def _power_of_two(least: int) -> int:
    return int(1 << (least - 1).bit_length())


class Recommendation:
    """Look-up, encoder and top-k for batches of one shape, planned once: fixed memory, one stream.

    ``run`` only launches: nothing is copied to or from the host and nothing waited for, so that
    ``capture`` can record it as one CUDA graph. ::

        plan.capture()
        plan.fill(ids, exclude); plan.replay(); outputs, best = plan.answer()
    """

    def __init__(
        self, items: DeviceItems, session: Session, names: Sequence[str],
        shape: tuple[int, int], k: int, most_excluded: int,
    ) -> None:  # fmt: skip
        """For ids ``shape`` [B, L], the encoder's outputs ``names`` (the state first), and at most
        ``most_excluded`` excluded ids in all. The session shares the items' stream already."""
        driver, width = items.driver, items.table.width
        self._driver, self._session, self.shape = driver, session, shape
        self._most = most_excluded
        count, size = shape[0], shape[0] * shape[1]
        self._ids, self._mask = driver.empty(size, np.int64), driver.empty(size, np.float32)
        embedded = driver.empty(size * width, np.float32)
        self._look_up = Bag(items.table, Bags(self._ids, size, None, size), embedded)
        self._inputs = {
            "embedded": (embedded.address, (*shape, width)),
            "mask": (self._mask.address, shape),
        }
        sizes = [(count, width), *[(count,)] * (len(names) - 1)]
        self._outputs = [
            (name, driver.empty(int(np.prod(each)), np.float32), each)
            for name, each in zip(names, sizes, strict=True)
        ]
        self._excluded = driver.empty(most_excluded, np.int64)
        self._offsets = driver.upload(np.zeros(count + 1, np.int64), np.int64)
        rules = Rules(excluded=self._excluded, excluded_offsets=self._offsets)
        self._best = Retrieval(items.table, self._outputs[0][1], count, k, rules)
        self._graph: Graph | None = None

    def fill(self, ids: NDArray[np.int64], exclude: Lists) -> None:
        """Copy the next batch to the device. Raises KernelError for another shape, or for more
        excluded ids than were planned for."""
        banned, offsets = exclude
        if ids.shape != self.shape or len(offsets) != len(ids) + 1:
            raise KernelError(f"ids must be {list(self.shape)}, with one list each to exclude.")
        if len(banned) > self._most:
            raise KernelError(f"{len(banned)} ids are excluded; planned for {self._most}.")
        owner = np.repeat(np.arange(len(ids)), np.diff(offsets))
        self._driver.refill(self._ids, ids, np.int64)
        self._driver.refill(self._mask, ids > 0, np.float32)
        self._driver.refill(self._excluded, banned[np.lexsort((banned, owner))], np.int64)
        self._driver.refill(self._offsets, offsets, np.int64)

    def run(self) -> None:
        """Put the three on the stream."""
        self._look_up.run()
        outputs = {name: (memory.address, shape) for name, memory, shape in self._outputs}
        self._session.run_bound(self._inputs, outputs)
        self._best.run()

    def capture(self) -> None:
        """Record ``run`` as a graph, after a run that lets the encoder allocate what it needs."""
        assert isinstance(self._driver, Device)
        zeros = np.zeros(self.shape[0] + 1, np.int64)
        self.fill(np.zeros(self.shape, np.int64), (zeros[:0], zeros))
        self.run()
        with self._driver.capture() as graph:
            self.run()
        self._graph = graph

    def replay(self) -> None:
        """Run on what was filled in: one call for the graph where there is one."""
        if self._graph is None:
            self.run()
        else:
            self._graph.replay()

    def answer(self) -> tuple[list[NDArray[np.float32]], TopK]:
        """Wait; the encoder's outputs, and the k best items of each row."""
        outputs = [
            self._driver.download(memory, int(np.prod(shape)), np.float32).reshape(shape)
            for _, memory, shape in self._outputs
        ]
        return outputs, TopK(*self._best.answer())
