"""Reads and writes the 8-bit row layouts of torch and FBGEMM, bit for bit.

All of them hold unsigned codes q and a value of ``scale * q + bias``; ours holds ``q - 128`` as a
signed code. Codes convert exactly. A bias moves by 128 scales, which float32 may round, so a
foreign table is kept as it is (``Uint8Rows``) and becomes a RowwiseInt8 only on request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tierline_kernels.errors import KernelError
from tierline_kernels.layout import Float32Array, RowwiseInt8

RowLayout = Literal["torch8", "fused8", "tbe"]
Bytes = NDArray[np.uint8]

# Rows of a TBE table on a GPU start at multiples of this many bytes; on a CPU they are packed.
TBE_GPU_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Uint8Rows:
    """Unsigned codes ``[n, d]`` whose row i is worth ``scales[i] * codes[i] + biases[i]``."""

    codes: Bytes
    scales: Float32Array
    biases: Float32Array

    def to_rowwise(self) -> RowwiseInt8:
        """The same rows with signed codes; a value moves by at most one rounding of its bias."""
        codes = (self.codes ^ np.uint8(0x80)).view(np.int8)
        wide = self.biases.astype(np.float64) + 128.0 * self.scales.astype(np.float64)
        return RowwiseInt8(codes, self.scales, wide.astype(np.float32))


def from_rowwise(table: RowwiseInt8) -> Uint8Rows:
    """Unsigned codes for a signed table; the bias takes up the shift of 128 scales."""
    codes = table.codes.view(np.uint8) ^ np.uint8(0x80)
    wide = -128.0 * table.scales.astype(np.float64)
    if table.biases is not None:
        wide += table.biases
    return Uint8Rows(codes, table.scales, wide.astype(np.float32))


def import_rows(
    raw: Bytes, width: int, layout: RowLayout, *, alignment: int = TBE_GPU_ALIGNMENT
) -> Uint8Rows:
    """Split raw rows ``[n, row bytes]`` into codes, scales and biases.

    ``torch8`` (``quantized::embedding_bag_byte_prepack``): d codes, float32 scale, float32 bias.
    ``fused8`` (FBGEMM Fused8BitRowwise): the same with the codes padded to a multiple of 4.
    ``tbe`` (FBGEMM nbit TBE, int8): float16 scale, float16 bias, d codes, padding to
    ``alignment`` bytes (16 on a GPU, 1 on a CPU). Raises KernelError when row bytes do not fit.
    """
    expected = row_bytes(width, layout, alignment=alignment)
    if raw.dtype != np.uint8 or raw.ndim != 2 or raw.shape[1] != expected:
        raise KernelError(
            f"{layout} rows of width {width} are uint8 [n, {expected}], "
            f"not {raw.dtype} {list(raw.shape)}."
        )
    if layout == "tbe":
        pair = np.ascontiguousarray(raw[:, :4]).view(np.float16).astype(np.float32)
        codes = raw[:, 4 : 4 + width]
    else:
        pair = np.ascontiguousarray(raw[:, -8:]).view(np.float32)
        codes = raw[:, :width]
    scales, biases = (np.ascontiguousarray(pair[:, side]) for side in (0, 1))
    return Uint8Rows(np.ascontiguousarray(codes), scales, biases)


def export_rows(rows: Uint8Rows, layout: RowLayout, *, alignment: int = TBE_GPU_ALIGNMENT) -> Bytes:
    """The raw rows ``[n, row bytes]`` of a layout, padding zero; the inverse of ``import_rows``.

    Raises KernelError when a scale or bias is not a float16 number but the layout holds float16.
    """
    n, width = rows.codes.shape
    raw = np.zeros((n, row_bytes(width, layout, alignment=alignment)), np.uint8)
    pair = np.stack([rows.scales, rows.biases], axis=1)
    if layout != "tbe":
        raw[:, :width] = rows.codes
        raw[:, -8:] = pair.view(np.uint8)
        return raw
    with np.errstate(over="ignore"):
        half = pair.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), pair, equal_nan=True):
        raise KernelError(
            "tbe rows hold float16 scales and biases, and these are not; round with quantize_uint8("
            "rows, half=True), or export as fused8."
        )
    raw[:, :4] = half.view(np.uint8)
    raw[:, 4 : 4 + width] = rows.codes
    return raw


def row_bytes(width: int, layout: RowLayout, *, alignment: int = TBE_GPU_ALIGNMENT) -> int:
    """How many bytes a row of ``width`` values takes in a layout."""
    if layout == "torch8":
        return width + 8
    if layout == "fused8":
        return _round_up(width, 4) + 8
    if layout == "tbe":
        return _round_up(width + 4, alignment)
    raise KernelError(f'layout is {layout!r}; choose "torch8", "fused8" or "tbe".')


def quantize_uint8(rows: NDArray[Any], *, half: bool = False) -> Uint8Rows:
    """Quantise float32 rows just as torch and FBGEMM do: scale (max - min) / 255, bias min.

    ``half`` rounds scale and bias to float16 first, as a TBE table does. Raises KernelError for
    anything but finite float32 ``[n, d]`` with d at least 1.
    """
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] == 0:
        raise KernelError(f"rows must be float32 [n, d], not {rows.dtype} {list(rows.shape)}.")
    if not np.isfinite(rows).all():
        raise KernelError("rows hold NaN or infinity; quantise finite values only.")
    low = rows.min(axis=1)
    spread = rows.max(axis=1) - low
    scales, biases = spread / np.float32(255.0), low
    if half:
        scales = scales.astype(np.float16).astype(np.float32)
        biases = biases.astype(np.float16).astype(np.float32)
        inverse = np.float32(1.0) / np.where(scales == 0, np.float32(1.0), scales)
    else:
        inverse = np.float32(255.0) / (spread + np.float32(1e-8))
    steps = np.rint((rows - biases[:, None]) * inverse[:, None])
    return Uint8Rows(np.clip(steps, 0, 255).astype(np.uint8), scales, biases)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
