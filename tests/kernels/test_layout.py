"""Quantisation errors stay in bounds; foreign row layouts survive the round trip bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline_kernels import KernelError, RowwiseInt8, dequantize_rows, embedding_bag, quantize_rows
from tierline_kernels.foreign import (
    RowLayout,
    Uint8Rows,
    export_rows,
    from_rowwise,
    import_rows,
    quantize_uint8,
    row_bytes,
)

LAYOUTS: list[RowLayout] = ["torch8", "fused8", "tbe"]
quick = settings(max_examples=200, deadline=None, database=None, derandomize=True)


@quick
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 20),
    d=st.integers(0, 40),
    power=st.integers(-44, 37),
    shift=st.sampled_from([0.0, 1.0, -300.0]),
    symmetric=st.booleans(),
)
def test_a_quantised_value_is_within_half_a_step(
    seed: int, n: int, d: int, power: int, shift: float, symmetric: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = ((rng.standard_normal((n, d)) / 8 + shift) * 10.0**power).astype(np.float32)
    if n and not np.isfinite(rows).all():
        return
    table = quantize_rows(rows, symmetric=symmetric)
    assert (table.biases is None) == symmetric
    got = dequantize_rows(table).astype(np.float64)
    size = np.abs(rows).max(initial=0.0)
    bound = 0.5 * table.scales[:, None].astype(np.float64) * (1 + 1e-4) + size * 5e-7 + 2e-43
    if size < 1e-40:  # below float32's smallest step times 127 rows become zeros
        bound = np.full((n, 1), size + 1e-44)
    assert (np.abs(got - rows) <= bound).all()


def test_zero_rows_and_constant_rows_come_back_exactly() -> None:
    rows = np.array([[0.0, 0.0], [2.5, 2.5], [-7.0, -7.0]], np.float32)
    for symmetric in (True, False):
        np.testing.assert_allclose(
            dequantize_rows(quantize_rows(rows, symmetric=symmetric)), rows, rtol=1e-6
        )


def test_quantising_and_packing_gives_the_bytes_torch_gives() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    for width in (1, 3, 4, 64, 65):
        rows = (rng.standard_normal((50, width)) * 10.0 ** rng.integers(-9, 9)).astype(np.float32)
        rows[1] = 2.5
        wanted = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(rows)).numpy()
        np.testing.assert_array_equal(export_rows(quantize_uint8(rows), "torch8"), wanted)
        unpacked = torch.ops.quantized.embedding_bag_byte_unpack(torch.from_numpy(wanted)).numpy()
        ours = import_rows(wanted, width, "torch8").to_rowwise()
        bound = np.abs(rows).max() * 1e-6
        np.testing.assert_allclose(dequantize_rows(ours), unpacked, rtol=0, atol=bound)


def test_a_bag_over_torch_rows_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((100, 64)).astype(np.float32)
    packed = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(rows))
    ids = rng.integers(0, 100, 60)
    offsets = np.array([0, 0, 20, 60])
    wanted = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        packed,
        torch.from_numpy(ids),
        torch.from_numpy(offsets),
        False,
        0,
        False,
        None,
        None,
        True,
    ).numpy()
    table = import_rows(packed.numpy(), 64, "torch8").to_rowwise()
    got = embedding_bag(table, ids, offsets, include_last_offset=True)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def stated_row(
    layout: RowLayout, codes: NDArray[np.uint8], scale: float, bias: float, alignment: int
) -> bytes:
    """The layouts as FBGEMM's sources state them, one field after the other."""
    if layout == "torch8":
        return codes.tobytes() + np.array([scale, bias], "<f4").tobytes()
    if layout == "fused8":
        padding = bytes(-len(codes) % 4)
        return codes.tobytes() + padding + np.array([scale, bias], "<f4").tobytes()
    body = np.array([scale, bias], "<f2").tobytes() + codes.tobytes()
    return body + bytes(-len(body) % alignment)


@quick
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 6),
    d=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS),
    alignment=st.sampled_from([1, 16]),
)
def test_rows_are_written_and_read_bit_for_bit(
    seed: int, n: int, d: int, layout: RowLayout, alignment: int
) -> None:
    rng = np.random.default_rng(seed)
    pair = rng.standard_normal((n, 2)).astype(np.float16).astype(np.float32)
    rows = Uint8Rows(
        rng.integers(0, 256, (n, d)).astype(np.uint8), pair[:, 0].copy(), pair[:, 1].copy()
    )
    raw = export_rows(rows, layout, alignment=alignment)
    stated = b"".join(
        stated_row(layout, rows.codes[i], float(pair[i, 0]), float(pair[i, 1]), alignment)
        for i in range(n)
    )
    assert raw.tobytes() == stated
    assert raw.shape == (n, row_bytes(d, layout, alignment=alignment))
    back = import_rows(raw, d, layout, alignment=alignment)
    np.testing.assert_array_equal(back.codes, rows.codes)
    np.testing.assert_array_equal(back.scales, rows.scales)
    np.testing.assert_array_equal(back.biases, rows.biases)


def test_signed_and_unsigned_tables_stand_for_the_same_values() -> None:
    rng = np.random.default_rng(3)
    table = RowwiseInt8(
        rng.integers(-128, 128, (30, 9)).astype(np.int8),
        np.full(30, 0.25, np.float32),
        rng.integers(-8, 8, 30).astype(np.float32),
    )
    there = from_rowwise(table)
    np.testing.assert_array_equal(
        there.codes * there.scales[:, None] + there.biases[:, None], dequantize_rows(table)
    )
    back = there.to_rowwise()
    np.testing.assert_array_equal(back.codes, table.codes)
    np.testing.assert_array_equal(dequantize_rows(back), dequantize_rows(table))


def test_a_scale_that_float16_cannot_hold_is_not_rounded_in_silence() -> None:
    rows = quantize_uint8(np.array([[0.1, 0.7]], np.float32))
    with pytest.raises(KernelError, match="float16"):
        export_rows(rows, "tbe")
    export_rows(quantize_uint8(np.array([[0.1, 0.7]], np.float32), half=True), "tbe")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_raw_rows_of_another_width_are_refused(layout: RowLayout) -> None:
    with pytest.raises(KernelError, match=layout):
        import_rows(np.zeros((2, 30), np.uint8), 64, layout)
