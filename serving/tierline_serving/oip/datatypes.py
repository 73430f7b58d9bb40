"""The protocol's datatypes and what they are in numpy. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np

# Little-endian on the wire, and so in memory on every machine we run on.
NUMPY: Final = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
# Datatypes of the protocol that no kind of model takes yet: named, so that refusing them is exact.
UNSERVED: Final = frozenset({"BYTES", "BF16"})
DATATYPES: Final = frozenset(NUMPY) | UNSERVED

_NAMES: Final = {dtype: name for name, dtype in NUMPY.items()}


def name_of(dtype: str) -> str:
    """The protocol's name of a numpy dtype, as a bundle's manifest writes it. Raises KeyError."""
    return _NAMES[np.dtype(dtype)]
