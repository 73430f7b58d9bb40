"""A bundle's embedding tables as the kernels take them, outside the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import RowwiseInt8, default_backend, dot_topk, embedding_lookup
from tierline_kernels.operations import TopK
from tierline_serving.bundle import Bundle


class ItemTable:
    """The item rows: look-up for histories and candidates, whole-catalogue retrieval."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        arrays = bundle.table(name)
        self.backend = default_backend()
        self.rows: RowwiseInt8 | NDArray[Any]
        if arrays.codes is not None:
            assert arrays.scales is not None
            biases = None if arrays.biases is None else np.array(arrays.biases)
            self.rows = RowwiseInt8(np.array(arrays.codes), np.array(arrays.scales), biases)
        else:
            assert arrays.values is not None
            self.rows = np.array(arrays.values)

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [*ids.shape, d]; the row of id 0 is all zeros by construction."""
        return embedding_lookup(self.rows, ids, backend=self.backend)

    def best(
        self,
        hidden: NDArray[np.float32],
        k: int,
        exclude: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> TopK:
        """The k items with the largest inner product with each state [B, d], none excluded."""
        return dot_topk(hidden, self.rows, k, exclude=exclude, backend=self.backend)
