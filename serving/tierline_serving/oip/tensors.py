"""Reads the protocol's tensors, from JSON values or raw bytes, into numpy arrays. Pure.

Nothing is allocated before the size is checked, and binary tensors are views of the body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest
from tierline_serving.oip.datatypes import NUMPY

_BINARY_ONLY: Final = frozenset({"FP16"})  # the protocol has no JSON form for it

Array = NDArray[np.generic]


def element_count(shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has."""
    return math.prod(shape)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    """A view of raw little-endian bytes as a tensor. Raises BadRequest when the size differs."""
    dtype = NUMPY[datatype]
    wanted = element_count(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise BadRequest(
            f"input {name!r}: {datatype} {list(shape)} takes {wanted} bytes, got {len(raw)}"
        )
    if datatype == "BOOL" and wanted and np.frombuffer(raw, np.uint8).max() > 1:
        raise BadRequest(f"input {name!r}: a BOOL is a byte of 0 or 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """A tensor from JSON values, nested or flat in row-major order. Raises BadRequest."""
    if datatype in _BINARY_ONLY:
        raise BadRequest(f"input {name!r}: {datatype} has no JSON form; send it as binary data")
    values = _leaves(name, shape, data)
    dtype = NUMPY[datatype]
    if not set(map(type, values)) <= _JSON_TYPES.get(dtype.kind, _WHOLE):
        raise BadRequest(f"input {name!r}: the data must be {_JSON_WORDS[dtype.kind]}")
    try:
        with np.errstate(over="ignore"):  # beyond FP32's range is infinite, and said so below
            array = np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    except OverflowError as error:
        raise BadRequest(f"input {name!r}: a number does not fit into {datatype}") from error
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequest(f"input {name!r}: a number is not finite in {datatype}")
    return array.reshape(shape)


_JSON_TYPES: Final[dict[str, set[type]]] = {"b": {bool}, "f": {int, float}}
_WHOLE: Final[set[type]] = {int}
_JSON_WORDS: Final = {
    "b": "true or false",
    "f": "numbers",
    "i": "whole numbers",
    "u": "whole numbers, zero or more",
}


def _leaves(name: str, shape: tuple[int, ...], data: object) -> list[object]:
    """The elements in row-major order, of data that is flat or nested exactly as ``shape``."""
    if not isinstance(data, list):
        raise BadRequest(f"input {name!r}: the data must be a JSON array")
    count = element_count(shape)
    level: list[object] = data
    if not (level and isinstance(level[0], list)):
        if len(level) != count:
            raise BadRequest(
                f"input {name!r}: the shape {list(shape)} takes {count} elements, got {len(level)}"
            )
        return level
    expected = 1
    for axis, extent in enumerate(shape):
        expected *= extent
        if len(level) != expected:
            raise BadRequest(f"input {name!r}: the data is not nested as {list(shape)}")
        if axis + 1 < len(shape):
            level = _opened(name, level, shape, shape[axis + 1])
    return level


def _opened(name: str, level: list[object], shape: tuple[int, ...], extent: int) -> list[object]:
    lists = [each for each in level if isinstance(each, list) and len(each) == extent]
    if len(lists) != len(level):
        raise BadRequest(f"input {name!r}: the data is not nested as {list(shape)}")
    return list(chain.from_iterable(lists))
