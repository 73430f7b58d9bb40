"""A bundle's embedding tables as the kernels take them, outside the graph."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tierline_edge.session import PROVIDERS, Session
from tierline_kernels import RowwiseInt8, default_backend, dot_topk, embedding_lookup
from tierline_kernels.operations import TopK
from tierline_serving.boosted import Lists
from tierline_serving.bundle import Bundle
from tierline_serving.carried import Carried
from tierline_serving.neighbours import NeighbourTable

if TYPE_CHECKING:
    from tierline_edge.device import DeviceItems

__all__ = [
    "QUERIES_TOGETHER",
    "ItemTable",
    "Lists",
    "open_carried",
    "open_items",
    "open_neighbours",
    "part_of",
]

log = logging.getLogger("tierline.edge")

# Float tables meet this many queries a product or fewer, never more: the kernels then score each
# query by itself, so that a recommendation does not depend on who else asked in the same batch.
QUERIES_TOGETHER = 8


def open_items(bundle: Bundle, name: str, session: Session) -> ItemTable | DeviceItems:
    """The item rows where the session computes: on the host, or in the GPU's memory and on one
    stream with it. Raises BackEndMissing when the kernels cannot run there."""
    table = ItemTable(bundle, name)
    found: ItemTable | DeviceItems = table
    if session.provider == PROVIDERS["cuda"]:
        # Numba's CUDA is imported on nodes that have a GPU only.
        from tierline_edge.device import DeviceItems

        found = DeviceItems(table.rows)
        session.share_stream(found.driver.stream_handle)
    log.info("bundle %s: kernels run on %s, %s", bundle.id, found.backend, session.provider)
    return found


def open_neighbours(bundle: Bundle) -> NeighbourTable | None:
    """The items' neighbours, or None where scores are the network's alone. Copied into memory as
    the item rows are, and for the same reason."""
    table = bundle.neighbours()
    if table is None or bundle.is_private:
        return table
    return replace(
        table,
        ids=np.array(table.ids),
        codes=np.array(table.codes),
        levels=np.array(table.levels),
    )


def open_carried(bundle: Bundle) -> Carried | None:
    """Which items the table has, or None when it has all; copied into memory likewise."""
    found = bundle.carried()
    if found is None or bundle.is_private:
        return found
    return replace(found, ids=np.array(found.ids), lost=np.array(found.lost))


def part_of(exclude: Lists, low: int, count: int) -> Lists:
    """The lists of at most ``count`` rows, from row ``low`` on."""
    ids, offsets = exclude
    part = offsets[low : low + count + 1]
    return ids[part[0] : part[-1]], part - part[0]


class ItemTable:
    """The item rows: look-up for histories and candidates, whole-catalogue retrieval. Copied into
    memory, so that a file that changes on disk cannot change what is served; a private copy of the
    bundle is mapped instead, once for all processes that serve it."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        arrays = bundle.table(name)
        keep = np.asarray if bundle.is_private else np.array
        self.backend = default_backend()
        self.rows: RowwiseInt8 | NDArray[Any]
        if arrays.codes is not None:
            assert arrays.scales is not None
            biases = None if arrays.biases is None else keep(arrays.biases)
            self.rows = RowwiseInt8(keep(arrays.codes), keep(arrays.scales), biases)
        else:
            assert arrays.values is not None
            self.rows = keep(arrays.values)

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [*ids.shape, d]; the row of id 0 is all zeros by construction. The ids are rows
        of the table: whoever asks a scorer has its ``validate`` look at them first."""
        rows = self.rows
        if not isinstance(rows, RowwiseInt8) and rows.dtype == np.float32:
            found: NDArray[np.float32] = rows.take(ids, axis=0)  # the kernel checks the ids again
            return found
        return embedding_lookup(rows, ids, backend=self.backend)

    def best(self, hidden: NDArray[np.float32], k: int, exclude: Lists) -> TopK:
        """The k items with the largest inner product with each state [B, d], none excluded."""
        if isinstance(self.rows, RowwiseInt8) or len(hidden) <= QUERIES_TOGETHER:
            return dot_topk(hidden, self.rows, k, exclude=exclude, backend=self.backend)
        size = QUERIES_TOGETHER
        parts = [
            self.best(hidden[low : low + size], k, part_of(exclude, low, size))
            for low in range(0, len(hidden), size)
        ]
        return TopK(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.indices for part in parts]),
        )
