"""Whether a request fits a bundle's signature, and what it looks like packed into a batch. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest, BundleRefused
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_serving.finite import all_finite
from tierline_serving.manifest import Manifest, TensorSpec
from tierline_serving.sequence_spec import SequenceSpec

HISTORY = "history"
MAX_K = 10_000  # beyond it a recommendation is an export, not an answer
_HISTORIES: Final = frozenset((HISTORY,))
_CANDIDATES: Final = frozenset((CANDIDATE_IDS,))

Ids = NDArray[np.int64]


class SequenceRequests:
    """Requests of kind ``sequence``: a history of item ids, and candidates or ``k``."""

    def __init__(self, spec: SequenceSpec) -> None:
        self._items = spec.items
        self._length = spec.max_history

    def validate(self, request: ScoreRequest) -> None:
        """Raise BadRequest with a sentence when the request does not fit."""
        if request.query.keys() != _HISTORIES:
            raise BadRequest(f"the query must be {{'history': ids}}, got {sorted(request.query)}")
        self._check_ids(request.query[HISTORY], "history")
        if request.candidates is None:
            _check_k(request.k)
            return
        if request.candidates.keys() != _CANDIDATES:
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
        # Not ids.min(): that goes by way of a Python function and a ufunc, and takes four times as
        # long for a hundred ids.
        low, high = ids.item(ids.argmin()), ids.item(ids.argmax())
        if low < 1 or high > self._items:
            wrong = low if low < 1 else high
            raise BadRequest(f"{what} holds item {wrong}; ids go from 1 to {self._items}")


class TensorRequests:
    """Requests of kind ``tensor``: named arrays, per query or per candidate."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises BundleRefused when the manifest's inputs have no axis of candidates."""
        self._query = {s.name: _Form.of(s) for s in manifest.inputs if s.role == "query"}
        self._candidate = {s.name: _Form.of(s) for s in manifest.inputs if s.role == "candidate"}
        for spec in manifest.inputs:
            if spec.role == "candidate" and spec.shape[:1] != ("rows",):
                raise BundleRefused(
                    f"inputs: {spec.name} has role candidate, so its first axis must be "
                    f"'rows', got {list(spec.shape)}"
                )
        if not self._candidate:
            raise BundleRefused("inputs: kind tensor needs at least one of role candidate")
        self._room: dict[str, NDArray[np.generic]] = {}

    def validate(self, request: ScoreRequest) -> None:
        """Raise BadRequest with a sentence when the request does not fit."""
        if request.candidates is None:
            raise BadRequest("this model has no catalogue: give candidates, it cannot recommend")
        if request.query.keys() != self._query.keys():
            raise BadRequest(_mismatch("query", set(request.query), set(self._query)))
        if request.candidates.keys() != self._candidate.keys():
            raise BadRequest(_mismatch("candidates", set(request.candidates), set(self._candidate)))
        for name, form in self._query.items():
            form.check("query", name, request.query[name], ())
        first: int | None = None
        for name, form in self._candidate.items():
            array = request.candidates[name]
            rows = array.shape[0] if array.ndim else 0
            if rows == 0:
                raise BadRequest("there are no candidates; give at least one row")
            form.check("candidates", name, array, (rows,))
            first = rows if first is None else first
            if rows != first:
                raise BadRequest(f"candidates must have equally many rows, got {first} and {rows}")

    def rows(self, request: ScoreRequest) -> int:
        """How many candidates it has."""
        return len(next(iter((request.candidates or {}).values())))

    def pack(self, requests: Sequence[ScoreRequest]) -> dict[str, NDArray[np.generic]]:
        """All requests' rows one after another; query arrays repeated for each candidate. Good
        until the next call, which may write to the same memory."""
        if len(requests) == 1:
            return self._pack_one(requests[0])
        counts = [self.rows(request) for request in requests]
        rows = sum(counts)
        packed: dict[str, NDArray[np.generic]] = {}
        for name in self._query:
            first = requests[0].query[name]
            packed[name] = self._room_for(name, rows, first.shape, first.dtype)
            start = 0
            for request, count in zip(requests, counts, strict=True):
                packed[name][start : start + count] = request.query[name]
                start += count
        for name in self._candidate:
            parts = [(each.candidates or {})[name] for each in requests]
            room = self._room_for(name, rows, parts[0].shape[1:], parts[0].dtype)
            packed[name] = np.concatenate(parts, out=room)
        return packed

    def _room_for(
        self, name: str, rows: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]
    ) -> NDArray[np.generic]:
        """An array for an input of a batch, kept from batch to batch: memory of that size the
        allocator would map and unmap each time, and the kernel clear page by page."""
        room = self._room.get(name)
        if room is None or len(room) < rows or room.shape[1:] != shape:
            room = self._room[name] = np.empty((rows, *shape), dtype)
        return room[:rows]

    def _pack_one(self, request: ScoreRequest) -> dict[str, NDArray[np.generic]]:
        rows = self.rows(request)
        packed = dict(request.candidates or {})
        for name, array in request.query.items():
            repeated = np.empty((rows, *array.shape), array.dtype)
            repeated[:] = array
            packed[name] = repeated
        return packed


@dataclass(frozen=True)
class _Form:
    """The dtype of an input and its shape without the axis of rows."""

    dtype: np.dtype[np.generic]
    shape: tuple[int | str, ...]

    @classmethod
    def of(cls, spec: TensorSpec) -> _Form:
        return cls(
            np.dtype(spec.dtype), spec.shape[1:] if spec.shape[:1] == ("rows",) else spec.shape
        )

    def check(
        self, part: str, name: str, array: NDArray[np.generic], rows: tuple[int, ...]
    ) -> None:
        """Raise BadRequest unless the array has this form, behind the axes ``rows``."""
        if array.dtype != self.dtype:
            raise BadRequest(f"{part}[{name!r}] must be {self.dtype}, got {array.dtype}")
        wanted = (*rows, *self.shape)
        fits = array.shape == wanted or (
            len(array.shape) == len(wanted)
            and all(
                isinstance(want, str) or got == want
                for got, want in zip(array.shape, wanted, strict=True)
            )
        )
        if not fits:
            raise BadRequest(f"{part}[{name!r}] must have shape {wanted}, got {array.shape}")
        if array.dtype.kind == "f" and not all_finite(array):
            raise BadRequest(f"{part}[{name!r}] holds numbers that are not finite")


def _check_k(k: int | None) -> None:
    if k is None or not 1 <= k <= MAX_K:
        raise BadRequest(f"k must be from 1 to {MAX_K}, got {k}")


def _mismatch(what: str, got: set[str], wanted: set[str]) -> str:
    return f"{what} must be named {sorted(wanted)}, got {sorted(got)}"
