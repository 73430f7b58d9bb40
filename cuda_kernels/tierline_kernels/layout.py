"""Row-wise int8 tables: one signed byte a value, one scale (and perhaps a bias) a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.errors import KernelError

Int8Array = NDArray[np.int8]
Float32Array = NDArray[np.float32]

# Above this width an int8 × int8 dot product could leave int32.
MAX_WIDTH = 131_072


@dataclass(frozen=True, slots=True)
class RowwiseInt8:
    """A table whose row i is ``scales[i] * codes[i] + biases[i]``.

    ``codes`` int8 ``[n, d]``, ``scales`` float32 ``[n]``, ``biases`` float32 ``[n]`` or None for a
    symmetric table. Codes and scales lie apart so that codes keep 16-byte alignment.
    Raises KernelError when shapes or types differ from this.
    """

    codes: Int8Array
    scales: Float32Array
    biases: Float32Array | None = None

    def __post_init__(self) -> None:
        if self.codes.dtype != np.int8 or self.codes.ndim != 2:
            raise KernelError(
                f"codes must be int8 [n, d], not {self.codes.dtype} {list(self.codes.shape)}."
            )
        if self.codes.shape[1] > MAX_WIDTH:
            raise KernelError(
                f"rows are {self.codes.shape[1]} wide; at most {MAX_WIDTH} fit int32."
            )
        for name, part in (("scales", self.scales), ("biases", self.biases)):
            if part is None:
                continue
            if part.dtype != np.float32 or part.shape != (self.codes.shape[0],):
                raise KernelError(
                    f"{name} must be float32 [{self.codes.shape[0]}], "
                    f"not {part.dtype} {list(part.shape)}."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return self.codes.shape[0], self.codes.shape[1]


Table = NDArray[Any] | RowwiseInt8


def quantize_rows(rows: NDArray[Any], *, symmetric: bool = True) -> RowwiseInt8:
    """Quantise float rows ``[n, d]`` to int8; the error of a value is at most half its row's scale.

    ``symmetric`` maps ±max|row| to ±127 and keeps no bias; otherwise min…max maps to −128…127.
    Raises KernelError for anything but finite float rows.
    """
    if rows.ndim != 2 or rows.dtype not in (np.float16, np.float32, np.float64):
        raise KernelError(f"rows must be float [n, d], not {rows.dtype} {list(rows.shape)}.")
    wide = rows.astype(np.float64)
    if not np.isfinite(wide).all():
        raise KernelError("rows hold NaN or infinity; quantise finite values only.")
    if wide.size == 0:
        scales = np.zeros(len(rows), np.float32)
        return RowwiseInt8(
            np.zeros(rows.shape, np.int8), scales, None if symmetric else scales.copy()
        )
    if symmetric:
        scales = _scales(np.abs(wide).max(axis=1) / 127.0)
        return RowwiseInt8(_codes(wide / scales[:, None]), scales)
    low = wide.min(axis=1)
    spread = wide.max(axis=1) - low
    scales = _scales(spread / 255.0)
    flat = (spread / 255.0).astype(np.float32) == 0.0
    biases = np.where(flat, low, low + 128.0 * scales).astype(np.float32)
    return RowwiseInt8(_codes((wide - biases[:, None]) / scales[:, None], low=-128), scales, biases)


def dequantize_rows(table: RowwiseInt8) -> Float32Array:
    """The float32 rows ``[n, d]`` that ``table`` stands for."""
    rows = table.codes.astype(np.float32) * table.scales[:, None]
    if table.biases is not None:
        rows += table.biases[:, None]
    return rows


def _scales(wanted: NDArray[np.float64]) -> Float32Array:
    scales = wanted.astype(np.float32)
    if not np.isfinite(scales).all():
        raise KernelError("rows reach beyond float32; scale them down first.")
    # A constant row (or one below float32's smallest step) keeps all its codes at zero.
    scales[scales == 0.0] = 1.0
    return scales


def _codes(steps: NDArray[np.float64], low: int = -127) -> Int8Array:
    return np.clip(np.rint(steps), low, 127).astype(np.int8)
