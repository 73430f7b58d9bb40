"""Whether all numbers of an array are finite, as cheaply as nearly always suffices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def all_finite(array: NDArray[Any]) -> bool:
    """Whether no number of a float array is infinite or NaN."""
    # NaN and infinity go through a sum of squares; only a sum that overflows must be looked into.
    # One pass of BLAS costs a third of np.isfinite, which writes an array of its own; np.dot would
    # also warn of the overflow.
    if array.dtype.itemsize >= 4 and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())
