"""Late interaction: a query's tokens each look for their nearest token in an item. Pure.

score(q, i) = mean over the query's tokens of max over the item's tokens of their cosine. ColBERT
(Khattab and Zaharia, 2020) sums where this takes the mean: the same order for a query, and scores
in [−1, 1] whatever its length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import RowwiseInt8

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


def late_interaction(query: Floats, tokens: RowwiseInt8, offsets: Ids, items: Ids) -> Floats:
    """The score of each item (float32 [n]) for a query's token vectors [q, d]; item i's tokens are
    rows ``offsets[i]`` to ``offsets[i + 1]``, at least one. An item's score is the same whichever
    others are asked about."""
    turned = np.ascontiguousarray(query.T)
    scores = np.empty(len(items), np.float32)
    for place, item in enumerate(items):
        low, high = offsets[item], offsets[item + 1]
        # One product an item: its shape, and with it the order of its sums, is the item's own.
        found = tokens.codes[low:high].astype(np.float32) @ turned
        found *= tokens.scales[low:high, None]
        scores[place] = found.max(axis=0).mean()
    return scores


def late_interaction_exact(query: Floats, tokens: Floats) -> float:
    """One item's score from its float32 token vectors [t, d], each token by each: what the fast
    way must come near."""
    return float(np.mean([max(float(q @ t) for t in tokens) for q in query]))
