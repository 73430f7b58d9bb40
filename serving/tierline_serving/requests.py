"""Whether a request fits a bundle's signature, and what it looks like packed into a batch. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest, BundleRefused
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_serving.manifest import Manifest, SequenceSpec, TensorSpec

HISTORY = "history"
MAX_K = 10_000  # beyond it a recommendation is an export, not an answer

Ids = NDArray[np.int64]


class SequenceRequests:
    """Requests of kind ``sequence``: a history of item ids, and candidates or ``k``."""

    def __init__(self, spec: SequenceSpec) -> None:
        self._items = spec.items
        self._length = spec.max_history

    def validate(self, request: ScoreRequest) -> None:
        """Raise BadRequest with a sentence when the request does not fit."""
        if set(request.query) != {HISTORY}:
            raise BadRequest(f"the query must be {{'history': ids}}, got {sorted(request.query)}")
        self._check_ids(request.query[HISTORY], "history")
        if request.candidates is None:
            _check_k(request.k)
            return
        if set(request.candidates) != {CANDIDATE_IDS}:
            names = sorted(request.candidates)
            raise BadRequest(f"candidates of a sequence model are item ids, got {names}")
        ids = request.candidates[CANDIDATE_IDS]
        if ids.size == 0:
            raise BadRequest("there are no candidates; give at least one item id")
        self._check_ids(ids, "candidates")

    def pad(self, requests: Sequence[ScoreRequest]) -> Ids:
        """The last ``max_history`` items of each history, left-padded with 0: int64 [B, L]."""
        ids = np.zeros((len(requests), self._length), np.int64)
        for row, request in enumerate(requests):
            recent = request.query[HISTORY][-self._length :]
            if len(recent):
                ids[row, -len(recent) :] = recent
        return ids

    def _check_ids(self, ids: NDArray[np.generic], what: str) -> None:
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise BadRequest(f"{what} must be a list of item ids, got {ids.dtype} {ids.shape}")
        if ids.size == 0:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 1 or high > self._items:
            wrong = low if low < 1 else high
            raise BadRequest(f"{what} holds item {wrong}; ids go from 1 to {self._items}")


class TensorRequests:
    """Requests of kind ``tensor``: named arrays, per query or per candidate."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises BundleRefused when the manifest's inputs have no axis of candidates."""
        self._query = {spec.name: spec for spec in manifest.inputs if spec.role == "query"}
        self._candidate = {spec.name: spec for spec in manifest.inputs if spec.role == "candidate"}
        for spec in self._candidate.values():
            if not spec.shape or spec.shape[0] != "rows":
                raise BundleRefused(
                    f"inputs: {spec.name} has role candidate, so its first axis must be "
                    f"'rows', got {list(spec.shape)}"
                )
        if not self._candidate:
            raise BundleRefused("inputs: kind tensor needs at least one of role candidate")

    def validate(self, request: ScoreRequest) -> None:
        """Raise BadRequest with a sentence when the request does not fit."""
        if request.candidates is None:
            raise BadRequest("this model has no catalogue: give candidates, it cannot recommend")
        if request.query.keys() != self._query.keys():
            raise BadRequest(_mismatch("query", set(request.query), set(self._query)))
        if request.candidates.keys() != self._candidate.keys():
            raise BadRequest(_mismatch("candidates", set(request.candidates), set(self._candidate)))
        for name, spec in self._query.items():
            _check_tensor(f"query[{name!r}]", request.query[name], spec, _fixed(spec))
        for name, spec in self._candidate.items():
            array = request.candidates[name]
            if array.ndim == 0 or array.shape[0] == 0:
                raise BadRequest("there are no candidates; give at least one row")
            _check_tensor(f"candidates[{name!r}]", array, spec, (array.shape[0], *_fixed(spec)))
        rows = {name: len(array) for name, array in request.candidates.items()}
        if len(set(rows.values())) > 1:
            raise BadRequest(f"candidates must have equally many rows, got {rows}")

    def rows(self, request: ScoreRequest) -> int:
        """How many candidates it has."""
        return len(next(iter((request.candidates or {}).values())))

    def pack(self, requests: Sequence[ScoreRequest]) -> dict[str, NDArray[np.generic]]:
        """All requests' rows one after another; query arrays repeated for each candidate."""
        if len(requests) == 1:
            return self._pack_one(requests[0])
        parts = [self._pack_one(request) for request in requests]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _pack_one(self, request: ScoreRequest) -> dict[str, NDArray[np.generic]]:
        rows = self.rows(request)
        packed = dict(request.candidates or {})
        for name, array in request.query.items():
            repeated = np.empty((rows, *array.shape), array.dtype)
            repeated[:] = array
            packed[name] = repeated
        return packed


def _fixed(spec: TensorSpec) -> tuple[int | str, ...]:
    """The shape without the axis of rows, which a request's query arrays lack."""
    return spec.shape[1:] if spec.shape and spec.shape[0] == "rows" else spec.shape


def _check_tensor(
    what: str, array: NDArray[np.generic], spec: TensorSpec, shape: tuple[int | str, ...]
) -> None:
    if array.dtype.name != spec.dtype:
        raise BadRequest(f"{what} must be {spec.dtype}, got {array.dtype.name}")
    fits = len(array.shape) == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise BadRequest(f"{what} must have shape {shape}, got {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequest(f"{what} holds numbers that are not finite")


def _check_k(k: int | None) -> None:
    if k is None or not 1 <= k <= MAX_K:
        raise BadRequest(f"k must be from 1 to {MAX_K}, got {k}")


def _mismatch(what: str, got: set[str], wanted: set[str]) -> str:
    return f"{what} must be named {sorted(wanted)}, got {sorted(got)}"
