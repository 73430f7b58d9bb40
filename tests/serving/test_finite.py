"""What is finite is told as numpy tells it, whatever a sum of squares does meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tierline_serving.finite import all_finite

FLOATS = arrays.arrays(
    st.sampled_from(["f2", "f4", "f8"]), arrays.array_shapes(max_dims=3, min_side=0)
)


@given(FLOATS)
def test_any_array_is_finite_where_numpy_says_so(array: NDArray[Any]) -> None:
    assert all_finite(array) == np.isfinite(array).all()
    assert all_finite(array[::-1]) == np.isfinite(array).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_largest_numbers_are_finite_and_nobody_is_warned(dtype: str) -> None:
    array = np.full((30, 40), np.finfo(dtype).max, dtype)
    assert all_finite(array)
    array[29, 39] = np.nan
    assert not all_finite(array)
