"""A remembered header decodes exactly as a parsed one, and hides no damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import FrameError
from tierline.wire import Limits, ScoreRequest, decode_request, encode_request
from tierline_serving.front.layouts import MOST, Layouts

LIMITS = Limits()
DTYPES = st.sampled_from([np.float32, np.int64, np.uint8, np.float16, np.bool_])


def framed(request: ScoreRequest) -> bytes:
    return b"".join(encode_request(request))


def a_request(rows: int, dtype: type[np.generic], seed: int) -> ScoreRequest:
    dice = np.random.default_rng(seed)
    query = {"a": dice.integers(0, 2, 3).astype(dtype), "b": dice.integers(0, 9, (2, 5))}
    return ScoreRequest("m", query, {"id": dice.integers(0, 2, (rows, 3)).astype(dtype)})


def assert_same(one: ScoreRequest, other: ScoreRequest) -> None:
    assert (one.model, one.version, one.k) == (other.model, other.version, other.k)
    for mine, theirs in ((one.query, other.query), (one.candidates or {}, other.candidates or {})):
        assert list(mine) == list(theirs)
        for name, array in mine.items():
            assert array.dtype == theirs[name].dtype
            assert array.shape == theirs[name].shape
            assert array.tobytes() == theirs[name].tobytes()
            assert not array.flags.writeable


@given(
    st.lists(st.tuples(st.integers(0, 4), DTYPES, st.integers(0, 5)), min_size=1, max_size=12),
)
def test_a_frame_is_decoded_the_same_the_first_time_and_any_other(
    asked: list[tuple[int, type[np.generic], int]],
) -> None:
    layouts = Layouts(LIMITS)
    for rows, dtype, seed in asked * 2:
        frame = framed(a_request(rows, dtype, seed))
        assert_same(layouts.decode(frame), decode_request(frame, LIMITS))


@given(before=st.binary(max_size=40), dtype=DTYPES, rows=st.integers(0, 4))
def test_a_frame_behind_its_head_is_decoded_as_it_is_alone(
    before: bytes, dtype: type[np.generic], rows: int
) -> None:
    layouts = Layouts(LIMITS)
    frame = framed(a_request(rows, dtype, 1))
    for _ in range(2):
        assert_same(layouts.decode(before + frame, len(before)), decode_request(frame, LIMITS))


def test_a_remembered_frame_is_read_where_it_lies() -> None:
    layouts = Layouts(LIMITS)
    data = bytes(192) + framed(a_request(4, np.float32, 1))
    layouts.decode(data, 192)
    arrays = (layouts.decode(data, 192).candidates or {}).values()
    assert arrays
    for array in arrays:
        assert array.flags.aligned
        assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_frame_is_refused_or_read_exactly_as_without_memory(data: st.DataObject) -> None:
    layouts = Layouts(LIMITS)
    frame = framed(a_request(3, data.draw(DTYPES), 1))
    layouts.decode(frame)
    place = data.draw(st.integers(0, len(frame) - 1))
    damaged = data.draw(
        st.sampled_from(
            [
                frame[:place] + bytes([frame[place] ^ 0x11]) + frame[place + 1 :],
                frame[:place],
                frame + b"\0",
            ]
        )
    )
    try:
        expected = decode_request(damaged, LIMITS)
    except FrameError:
        with pytest.raises(FrameError):
            layouts.decode(damaged)
    else:
        assert_same(layouts.decode(damaged), expected)


def test_memory_is_bounded_whatever_is_asked() -> None:
    layouts = Layouts(LIMITS)
    for rows in range(3 * MOST):
        layouts.decode(framed(ScoreRequest("m", {}, {"id": np.zeros(rows + 1, np.uint8)})))
    assert len(layouts._known) <= MOST
    layouts.decode(
        framed(ScoreRequest("m", {"x" * 60 + str(i): np.zeros(1) for i in range(40)}, k=1))
    )
    assert max(map(len, layouts._known)) <= 2048
