"""Tensors of a frame: described for the header, and read back as checked views of its bytes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tierline._exceptions import FrameError
from tierline.wire._fields import DEFAULT_LIMITS, Limits, check_text
from tierline.wire.messages import Tensors

ALIGNMENT: Final = 16
ZEROS: Final = bytes(ALIGNMENT)
DTYPES: Final = {  # code on the wire → what it means; nothing else travels
    code: np.dtype(f"<{code}")
    for code in ("f4", "f2", "f8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_KNOWN = {code: (dtype, dtype.itemsize) for code, dtype in DTYPES.items()}
_BOOL = DTYPES["b1"]

Spec = list[str | int]  # [name, dtype code, *shape]


def describe(tensors: Tensors) -> tuple[list[Spec], list[NDArray[np.generic]]]:
    """The specs for the header, and the arrays as they travel: little-endian, C order.

    An array that is so already is passed on; any other is copied. Raises FrameError for a dtype
    or rank that does not travel.
    """
    specs: list[Spec] = []
    arrays: list[NDArray[np.generic]] = []
    for name, given in tensors.items():
        check_text("a tensor's name", name, DEFAULT_LIMITS.max_name)
        array = given
        code = _CODES.get(array.dtype) if isinstance(array, np.ndarray) else None
        if code is None:
            array = _little_endian(name, given)
            code = _CODES[array.dtype]
        if array.ndim > DEFAULT_LIMITS.max_rank:
            raise FrameError(f"tensor {name!r} has {array.ndim} axes; 8 travel at most")
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        specs.append([name, code, *array.shape])
        arrays.append(array)
    if len(specs) > DEFAULT_LIMITS.max_tensors:
        raise FrameError(f"{len(specs)} tensors; a frame carries {DEFAULT_LIMITS.max_tensors}")
    return specs, arrays


def read_tensors(
    view: memoryview,
    start: int,
    specs: Any,  # Any: what msgpack found where the specs should be
    limits: Limits,
) -> tuple[dict[str, NDArray[np.generic]], int]:
    """The described tensors as read-only views, and where the last ends. Raises FrameError."""
    if type(specs) is not list or len(specs) > limits.max_tensors:
        raise FrameError(f"tensors are described in an array of at most {limits.max_tensors}")
    tensors: dict[str, NDArray[np.generic]] = {}
    end = start
    for spec in specs:
        name, dtype, shape, size = _check_spec(spec, limits)
        if name in tensors:
            raise FrameError(f"two tensors are named {name!r}")
        start = end + (-end % ALIGNMENT)
        stop = start + size
        if stop > len(view):
            raise FrameError(f"tensor {name!r} needs bytes up to {stop} of {len(view)}")
        if start != end and view[end:start] != ZEROS[: start - end]:
            raise FrameError(f"the padding before tensor {name!r} is not zeros")
        array: NDArray[np.generic] = np.ndarray(shape, dtype, view, start)
        if dtype is _BOOL and size and view[start:stop].tobytes().strip(b"\x00\x01"):
            raise FrameError(f"tensor {name!r} holds bytes that are no booleans")
        tensors[name] = array
        end = stop
    return tensors, end


def _check_spec(
    spec: Any,  # Any: what msgpack found where a spec should be
    limits: Limits,
) -> tuple[str, np.dtype[np.generic], list[int], int]:
    """Name, dtype, shape and size in bytes of one described tensor."""
    if type(spec) is not list or not 2 <= len(spec) <= limits.max_rank + 2:
        raise FrameError(f"a tensor is [name, dtype, *shape] of at most {limits.max_rank} axes")
    name, code, *shape = spec
    check_text("a tensor's name", name, limits.max_name)
    known = _KNOWN.get(code) if type(code) is str else None
    if known is None:
        raise FrameError(f"tensor {name!r} has none of the dtypes {', '.join(DTYPES)}")
    dtype, span = known
    size = span
    for length in shape:
        if type(length) is not int or length < 0:
            raise FrameError(f"tensor {name!r} has an axis that is no length")
        size *= length
        span *= length or 1  # NumPy refuses (0, 2**62) too: zero bytes must not hide a huge axis
        if span > limits.max_frame_bytes:
            raise FrameError(f"tensor {name!r} claims more than {limits.max_frame_bytes} bytes")
    return name, dtype, shape, size


def _little_endian(name: str, given: object) -> NDArray[np.generic]:
    array = np.asarray(given)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _CODES:
        raise FrameError(f"tensor {name!r} is {array.dtype}; {', '.join(DTYPES)} travel")
    return array.astype(dtype)
