"""Approximate top-k in two stages, with a bit a row that proves the answer exact.

Stage one deals a row's entries to buckets in turn (entry i to bucket i mod buckets) and keeps the
best few of each; stage two sorts what was kept. When every bucket that gave entries away holds
a last kept entry no better than the answer's last one, nothing it gave away can belong to the
answer: the row is certified exact. The test costs one comparison a bucket and is never wrong; a
few exact rows go without the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import arguments
from tierline_kernels.arguments import Int64Array
from tierline_kernels.errors import KernelError
from tierline_kernels.layout import Float32Array
from tierline_kernels.operations import BackEndName, topk


class CertifiedTopK(NamedTuple):
    """The best k of each row and, per row, whether they are proven to be exactly that."""

    values: Float32Array
    indices: Int64Array
    certified: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Buckets:
    """How many buckets a row is dealt to, and how many entries each keeps."""

    count: int
    kept: int


def expected_recall(n: int, k: int, buckets: Buckets) -> float:
    """The expected share of the true top k that survives, for entries in random order.

    ``1 - (1 / k) * sum over buckets and over r > kept of (r - kept) * P(r of the k fall into the
    bucket)``, hypergeometric in the bucket's size: the formula of the generalised two-stage top-k
    (arXiv 2506.04165), which has buckets of n / B entries each, for any n and B.
    """
    if k == 0 or n == 0:
        return 1.0
    k = min(k, n)
    small, larger = divmod(n, buckets.count)
    lost = larger * _lost_of(n, k, small + 1, buckets.kept)
    lost += (buckets.count - larger) * _lost_of(n, k, small, buckets.kept)
    return min(1.0, 1.0 - lost / k)


def _lost_of(n: int, k: int, size: int, kept: int) -> float:
    """How many of the top k a bucket of ``size`` entries is expected to give away."""
    lost = 0.0
    for r in range(kept + 1, min(k, size) + 1):
        if size - r <= n - k:
            chance = _log_comb(k, r) + _log_comb(n - k, size - r) - _log_comb(n, size)
            lost += (r - kept) * exp(chance)
    return lost


def _log_comb(n: int, r: int) -> float:
    return lgamma(n + 1) - lgamma(r + 1) - lgamma(n - r + 1)


def plan(n: int, k: int, recall: float) -> Buckets:
    """The fewest kept entries (count * kept) whose expected recall reaches ``recall``.

    Raises KernelError unless recall lies in (0, 1].
    """
    if not 0.0 < recall <= 1.0:
        raise KernelError(f"recall is {recall}; ask for more than 0 and at most 1.")
    everything = Buckets(1, max(1, min(k, n)))
    found = [everything]
    for kept in (1, 2, 4, 8, 16, 32):
        count = 1
        while count * kept < n and expected_recall(n, k, Buckets(count, kept)) < recall:
            count = count * 9 // 8 + 1
        if count > 1 and count * kept < n:
            found.append(Buckets(count, kept))
    # One bucket has nothing to deal: it is the exact selection, kept for when no other plan fits.
    return min(found[1:] or found, key=lambda each: each.count * each.kept)


def approximate_topk(
    x: NDArray[Any],
    k: int,
    *,
    buckets: Buckets,
    exact: bool = False,
    backend: BackEndName | None = None,
) -> CertifiedTopK:
    """The k largest numbers of each row ``[rows, n]``, perhaps missing some; ties as in ``topk``.

    A row's ``certified`` bit is True only if its answer is the exact one. With ``exact`` the rows
    without it are answered again by ``topk``, so all come back certified. NaN ranks last. Raises
    KernelError or BackEndMissing before any work.
    """
    if buckets.count < 1 or buckets.kept < 1:
        raise KernelError(f"{buckets} keeps nothing; both numbers start at 1.")
    task = arguments.check_topk(x, k, True, None, None, "last")
    candidates, worst = _keep_in_buckets(task.x, buckets, backend)
    values, indices = _best_of(task.x, candidates, task.k)
    certified = _certify(task.x, indices, worst)
    if exact and not certified.all():
        again = np.flatnonzero(~certified)
        values[again], indices[again] = topk(task.x[again], task.k, backend=backend)
        certified[again] = True
    return CertifiedTopK(values, indices, certified)


def _keep_in_buckets(
    x: Float32Array, buckets: Buckets, backend: BackEndName | None
) -> tuple[Int64Array, Int64Array]:
    """Kept indices ``[rows, count * kept]`` (-1 for none) and each bucket's last kept index, or
    -1 where a bucket gave nothing away."""
    rows, n = x.shape
    size = -(-n // buckets.count)
    padded = np.full((rows, size * buckets.count), -np.inf, np.float32)
    padded[:, :n] = x
    dealt = np.ascontiguousarray(padded.reshape(rows, size, buckets.count).transpose(0, 2, 1))
    lengths = (n - np.arange(buckets.count) + buckets.count - 1) // buckets.count
    best = topk(
        dealt.reshape(rows * buckets.count, size),
        buckets.kept,
        row_lengths=np.tile(np.maximum(lengths, 0), rows),
        backend=backend,
    ).indices.reshape(rows, buckets.count, buckets.kept)
    kept = np.where(best < 0, -1, best * buckets.count + np.arange(buckets.count)[:, None])
    gave = lengths > buckets.kept
    return kept.reshape(rows, buckets.count * buckets.kept), np.where(gave, kept[:, :, -1], -1)


def _order(x: Float32Array, places: Int64Array) -> Int64Array:
    """A rank for each place (lower is better): by value, then index; none (-1) comes last."""
    values = np.take_along_axis(x, np.maximum(places, 0), axis=1) if x.shape[1] else x
    lost = np.isnan(values)
    keys = (places, np.where(lost, np.float32(0), -values), lost, places < 0)
    return np.lexsort(keys, axis=1)


def _best_of(x: Float32Array, candidates: Int64Array, k: int) -> tuple[Float32Array, Int64Array]:
    rows = len(x)
    values = np.full((rows, k), -np.inf, np.float32)
    indices = np.full((rows, k), -1, np.int64)
    if x.shape[1] == 0:
        return values, indices
    ranked = np.take_along_axis(candidates, _order(x, candidates), axis=1)[:, :k]
    indices[:, : ranked.shape[1]] = ranked
    found = np.take_along_axis(x, np.maximum(ranked, 0), axis=1)
    values[:, : ranked.shape[1]] = np.where(ranked < 0, np.float32(-np.inf), found)
    return values, indices


def _certify(x: Float32Array, indices: Int64Array, worst: Int64Array) -> NDArray[np.bool_]:
    """Rows where no bucket can have given away an entry better than the answer's last one."""
    rows, n = x.shape
    if indices.shape[1] == 0 or n == 0:
        return np.ones(rows, np.bool_)
    last = indices[:, -1:]
    # Rank the buckets' last kept entries together with the answer's last one.
    both = np.concatenate([last, worst], axis=1)
    rank = np.empty_like(both)
    np.put_along_axis(rank, _order(x, both), np.arange(both.shape[1])[None], axis=1)
    open_ends = worst >= 0
    fine = (rank[:, 1:] > rank[:, :1]) | (worst == last) | ~open_ends
    full = (last[:, 0] >= 0) | ~open_ends.any(axis=1)
    return np.asarray(fine.all(axis=1) & full)
