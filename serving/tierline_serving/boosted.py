"""The best items of a whole catalogue in which a few gain by neighbours: exact, and few look-ups.

The items that gain are left out of the dense search and scored one by one in the same arithmetic,
their gain added; the two lists make one. Nothing of the catalogue's size is ever written.
"""

from __future__ import annotations

import numpy as np

from tierline_kernels import RowwiseInt8, quantize_rows
from tierline_kernels.layout import Table
from tierline_kernels.operations import TopK
from tierline_serving.neighbours import Boosts, Floats, Ids

# Ids to exclude: flat, and where each row's list starts, [B + 1].
Lists = tuple[Ids, Ids]


def left_out(seen: Lists, boosts: Boosts) -> Lists:
    """What the dense search leaves out: what was seen and what gains. ``seen`` may have more rows,
    which ask for nothing."""
    ids, offsets = seen
    order = np.argsort(np.concatenate((_owners(offsets), boosts.rows)), kind="stable")
    together = offsets.copy()
    together[: boosts.offsets.size] += boosts.offsets
    together[boosts.offsets.size :] += boosts.ids.size
    return np.concatenate((ids, boosts.ids))[order], together


def with_boosted(found: TopK, hidden: Floats, rows: Table, boosts: Boosts, seen: Lists) -> TopK:
    """``found``, the k best for each state [B, d] of what ``left_out`` left in, and the items that
    gain and were not seen: the k best of both, ties to the lowest id. Of int8 rows every score is
    bit for bit what ``dot_topk`` with the gain as boost gives on every back end; of float rows it
    depends on state and row alone. A score that is no number is never returned."""
    scores = _products(hidden, rows, boosts) + boosts.values
    scores[_places_of(seen, boosts, rows.shape[0])] = np.nan
    count, k = found.values.shape
    values = np.concatenate((found.values.reshape(-1), scores))
    items = np.concatenate((found.indices.reshape(-1), boosts.ids))
    owners = np.concatenate((np.repeat(np.arange(count), k), boosts.rows))
    # NaN comes last, behind the k that every row has found; −1, taken as unsigned, behind ids.
    order = np.lexsort((items.view(np.uint64), -values, owners))
    firsts = boosts.offsets[:-1] + k * np.arange(count)
    best = order[firsts[:, None] + np.arange(k)]
    return TopK(values[best], items[best])


def _owners(offsets: Ids) -> Ids:
    return np.repeat(np.arange(offsets.size - 1), np.diff(offsets))


def _places_of(seen: Lists, boosts: Boosts, items: int) -> Ids:
    """Where items that gain stand among ``boosts`` and were seen."""
    if not boosts.ids.size:
        return boosts.ids
    keys = boosts.rows * items + boosts.ids  # rising, as both are
    known = _owners(seen[1]) * items + seen[0]
    places = np.searchsorted(keys, known)
    found: Ids = places[np.take(keys, places, mode="clip") == known]
    return found


def _products(hidden: Floats, rows: Table, boosts: Boosts) -> Floats:
    """The score of each state with each item that gains by its history. Of int8 rows in exactly the
    steps of the kernels: an exact integer, then each step rounded to float32."""
    ids, owners = boosts.ids, boosts.rows
    with np.errstate(invalid="ignore", over="ignore"):
        if not isinstance(rows, RowwiseInt8):
            # Summed row by row: what stands beside a pair must not change its order.
            products: Floats = (rows[ids].astype(np.float32) * hidden[owners]).sum(axis=1)
            return products
        asked = quantize_rows(hidden)
        codes = asked.codes.astype(np.int32)
        dots = np.einsum("td,td->t", rows.codes[ids].astype(np.int32), codes[owners])
        scores: Floats = dots.astype(np.float32) * rows.scales[ids]
        if rows.biases is not None:
            sums = codes.sum(axis=1).astype(np.float32)
            scores = scores + sums[owners] * rows.biases[ids]
        return scores * asked.scales[owners]
