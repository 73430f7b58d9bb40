"""The item rows in a GPU's memory: look-up, encoder and retrieval on one stream, by address.

Ids go in and answers come out through the host; embedded histories and states do not. Written and
tested without a GPU (Numba's simulator, a stand-in session): nothing here has been timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_edge.session import Session
from tierline_kernels import RowwiseInt8
from tierline_kernels.cuda.device import Bag, Bags, DeviceTable, Retrieval, Rules
from tierline_kernels.cuda.driver import Driver, Memory, default_driver
from tierline_kernels.operations import TopK


class DeviceItems:
    """What ``ItemTable`` answers, from device memory; also runs the encoder there."""

    backend = "cuda"

    def __init__(self, rows: RowwiseInt8 | NDArray[Any], driver: Driver | None = None) -> None:
        """Copies the rows to the device. Raises BackEndMissing without one."""
        self.driver = driver or default_driver()
        self.table = DeviceTable(self.driver, rows)

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [*ids.shape, d]; the row of id 0 is all zeros by construction."""
        shape = (*ids.shape, self.table.width)
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

    def best(
        self,
        hidden: NDArray[np.float32],
        k: int,
        exclude: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> TopK:
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
