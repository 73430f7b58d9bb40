"""Item tables in few bytes: float16, and int8 or int4 codes with a scale (and bias) a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tierline_kernels import RowwiseInt8, dequantize_rows, quantize_rows

Floats = NDArray[np.float32]
TableForm = Literal["float32", "float16", "int8", "int4"]
TABLE_FORMS: tuple[str, ...] = get_args(TableForm)

SEARCH_STEPS, LEAST_RANGE = 200, 0.16  # of the range: the paper's bins and where its search ends
LEVELS = 15  # of int4: codes 0..15, held as −8..7


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactTable:
    """A table as a node holds it, and how many ``bytes`` it takes where it is stored."""

    served: RowwiseInt8 | NDArray[np.float16] | Floats
    bytes: int

    @property
    def rows(self) -> Floats:
        """The float32 rows [n, d] it stands for."""
        if isinstance(self.served, RowwiseInt8):
            return dequantize_rows(self.served)
        return self.served.astype(np.float32)


def compact_table(rows: Floats, form: TableForm, states: Floats | None = None) -> CompactTable:
    """``rows`` [n, d] in the given form; ``states`` [m, d] are some that will meet them. Stored
    int4 is packed, two codes a byte, with a float16 scale and bias a row; a node unpacks it to int8
    codes once. Raises ValueError for other forms and for an odd number of columns of int4."""
    if form == "float32":
        return CompactTable(served=rows, bytes=rows.nbytes)
    if form == "float16":
        half = rows.astype(np.float16)
        return CompactTable(served=half, bytes=half.nbytes)
    if form == "int8":
        table = quantize_rows(rows)
        return CompactTable(served=table, bytes=table.codes.nbytes + table.scales.nbytes)
    if form == "int4":
        if rows.shape[1] % 2:
            raise ValueError(f"int4 packs two codes a byte: {rows.shape[1]} columns are odd")
        table = quantize_rows_int4(rows, states)
        return CompactTable(served=table, bytes=pack_int4(table.codes).nbytes + 4 * len(rows))
    raise ValueError(f"table form {form!r} is none of {', '.join(TABLE_FORMS)}")


def quantize_rows_int4(rows: Floats, states: Floats | None = None) -> RowwiseInt8:
    """Four-bit codes (−8..7 in an int8 array), scales and biases that float16 holds exactly.

    The range of a row is found by greedy search (Guan et al. 2019, arXiv 1911.02079, algorithm 1:
    step either end inwards, whichever hurts less, and keep the best). A row of zeros stays zero.
    With ``states`` the codes are not those next to the numbers but those whose products with such
    states err least.
    """
    low, high = _greedy_range(rows)
    scales, biases = _halves(_steps(low, high), low)
    codes = _codes(rows, scales, biases)
    if states is not None:
        codes = _codes_for(rows, scales, biases, states)
    # value = scale · (code − 8) + (bias + 8 · scale): the kernels' form, with signed codes.
    return RowwiseInt8(
        (codes - 8).astype(np.int8),
        scales.astype(np.float32),
        (biases + 8.0 * scales).astype(np.float32),
    )


def pack_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes −8..7 [n, d], d even → uint8 [n, d / 2], the first of two in the low half."""
    nibbles = (codes + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = nibbles[:, ::2] | (nibbles[:, 1::2] << np.uint8(4))
    return packed


def unpack_int4(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """What ``pack_int4`` packed."""
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), np.int8)
    codes[:, ::2], codes[:, 1::2] = packed & 15, packed >> 4
    return codes - np.int8(8)


def _greedy_range(rows: Floats) -> tuple[Floats, Floats]:
    low, high = rows.min(axis=1), rows.max(axis=1)
    step = (high - low) / SEARCH_STEPS
    best_low, best_high, best = low, high, _error(rows, _steps(low, high), low)
    for _ in range(int(SEARCH_STEPS * (1 - LEAST_RANGE))):
        from_low = _error(rows, _steps(low + step, high), low + step)
        from_high = _error(rows, _steps(low, high - step), low)
        raise_low = from_low < from_high
        low = np.where(raise_low, low + step, low)
        high = np.where(raise_low, high, high - step)
        error = np.minimum(from_low, from_high)
        better = error < best
        best_low, best_high = np.where(better, low, best_low), np.where(better, high, best_high)
        best = np.minimum(error, best)
    return best_low, best_high


def _steps(low: Floats, high: Floats) -> Floats:
    """Scales with which LEVELS steps lead from low to high."""
    result: Floats = (high - low) / np.float32(LEVELS)
    return result


def _halves(scales: Floats, biases: Floats) -> tuple[Floats, Floats]:
    """As float16 stores them: the codes are chosen for what will be read back."""
    held = scales.astype(np.float16).astype(np.float32)
    # A row too flat for float16 is its bias alone; a scale of 1 keeps its codes at zero.
    return np.where(held > 0, held, 1.0), biases.astype(np.float16).astype(np.float32)


def _codes(rows: Floats | NDArray[np.float64], scales: Floats, biases: Floats) -> Floats:
    safe = np.where(scales > 0, scales, 1.0)[:, None]
    return np.clip(np.rint((rows - biases[:, None]) / safe), 0, LEVELS)


def _codes_for(rows: Floats, scales: Floats, biases: Floats, states: Floats) -> Floats:
    """Column by column, what rounding one column costs a product is made up for by the columns that
    follow (GPTQ: Frantar et al. 2022, arXiv 2210.17323). Its Hessian here is the states' second
    moments and, since rows are looked up as well, as much again of the identity."""
    width = rows.shape[1]
    moments = (states.astype(np.float64).T @ states) / len(states)
    hessian = moments + np.eye(width) * np.trace(moments) / width
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left = rows[:, order].astype(np.float64)
    codes = np.empty(rows.shape, np.float32)
    for place, column in enumerate(order):
        codes[:, column] = _codes(left[:, place : place + 1], scales, biases)[:, 0]
        held = codes[:, column] * scales + biases
        miss = (left[:, place] - held) / upper[place, place]
        left[:, place + 1 :] -= miss[:, None] * upper[place, place + 1 :]
    return codes


def _error(rows: Floats, scales: Floats, biases: Floats) -> Floats:
    codes = _codes(rows, scales, biases)
    gap = rows - codes * scales[:, None] - biases[:, None]
    result: Floats = np.einsum("nd,nd->n", gap, gap)
    return result
