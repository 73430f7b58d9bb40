"""The searchable form of a catalogue: a vector an item and a vector a token, row-wise int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.text.encoding import Encoded, Role, TextEncoder
from tierline_cloud.text.interaction import late_interaction
from tierline_kernels import RowwiseInt8, dequantize_rows, dot_topk, quantize_rows

PORTION = 512  # texts between two quantisations: float32 tokens of more would fill the memory

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextIndex:
    """``vectors`` has a row an item, row 0 padding; the tokens of item i are rows ``offsets[i]`` to
    ``offsets[i + 1]`` of ``tokens``; ``offsets`` int64 [items + 2]."""

    vectors: RowwiseInt8
    tokens: RowwiseInt8
    offsets: Ids

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.offsets) - 2

    def retrieve(self, vector: Floats, k: int) -> Ids:
        """The ``k`` items (or all) whose vectors are nearest, best first; ties by id."""
        nothing = np.array([0], np.int64), np.array([0, 1], np.int64)
        most = min(k, self.items)
        found: Ids = dot_topk(vector[None], self.vectors, most, exclude=nothing).indices[0]
        return found

    def score(self, query: Floats, items: Ids) -> Floats:
        """Each item's late interaction with the query's tokens."""
        return late_interaction(query, self.tokens, self.offsets, items)

    def search(self, query: Encoded, k: int, rescored: int) -> tuple[Ids, Floats]:
        """The best ``k`` by late interaction of the ``rescored`` (at least k) nearest by vector:
        items and scores, best first, ties by id; −1 and −inf where the catalogue has fewer."""
        near = self.retrieve(query.vector, max(k, rescored))
        scores = self.score(query.tokens, near)
        order = np.lexsort((near, -scores))[:k]
        items, best = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
        items[: len(order)], best[: len(order)] = near[order], scores[order]
        return items, best


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What int8 costs: cosines of the rows kept to the float32 ones, over vectors and tokens."""

    mean: float
    lowest_percent: float  # the first percentile
    cut: int  # items whose text is longer than is read


def build_index(
    encoder: TextEncoder, texts: Sequence[str], tell: Callable[[int], None] = lambda done: None
) -> tuple[TextIndex, Fidelity]:
    """Encode and quantise every item's text; ``tell`` hears how many are done."""
    vectors, tokens, lengths, cosines, cut = [], [], [0], [], 0
    for low in range(0, len(texts), PORTION):
        encoded = encoder.encode_all(texts[low : low + PORTION], Role.DOCUMENT)
        whole = np.stack([each.vector for each in encoded])
        each_token = np.concatenate([each.tokens for each in encoded])
        vectors.append(quantize_rows(whole))
        tokens.append(quantize_rows(each_token))
        lengths += [len(each.tokens) for each in encoded]
        cosines += [_cosines(vectors[-1], whole), _cosines(tokens[-1], each_token)]
        cut += sum(each.is_cut for each in encoded)
        tell(low + len(encoded))
    padding = quantize_rows(np.zeros((1, encoder.dim), np.float32))
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    index = TextIndex(vectors=_joined([padding, *vectors]), tokens=_joined(tokens), offsets=offsets)
    every = np.concatenate(cosines)
    low_end = float(np.percentile(every, 1))
    return index, Fidelity(mean=float(every.mean()), lowest_percent=low_end, cut=cut)


def sizes(index: TextIndex, weights: int) -> dict[str, int]:
    """Bytes of each part in memory: the encoder's float32 weights, the items' and tokens' rows, and
    what the tokens would take in float32."""
    tokens, width = index.tokens.shape
    return {
        "encoder": weights,
        "vectors": index.vectors.codes.nbytes + index.vectors.scales.nbytes,
        "tokens": index.tokens.codes.nbytes + index.tokens.scales.nbytes + index.offsets.nbytes,
        "tokens_float32": tokens * width * 4,
    }


def _cosines(table: RowwiseInt8, rows: Floats) -> Floats:
    kept = dequantize_rows(table)
    norms = np.linalg.norm(kept, axis=1) * np.linalg.norm(rows, axis=1)
    cosines: Floats = (kept * rows).sum(axis=1) / np.maximum(norms, 1e-12)
    return cosines


def _joined(tables: Sequence[RowwiseInt8]) -> RowwiseInt8:
    return RowwiseInt8(
        np.concatenate([table.codes for table in tables]),
        np.concatenate([table.scales for table in tables]),
    )
