"""Frames: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from struct import pack
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tierline._exceptions import FrameError
from tierline.wire import (
    ErrorReply,
    Limits,
    ScoreReply,
    ScoreRequest,
    decode_error,
    decode_reply,
    decode_request,
    encode_error,
    encode_reply,
    encode_request,
)

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
names = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
floats = st.floats(0, 1e6, allow_nan=False)


@st.composite
def arrays(draw: st.DrawFn, first: int | None = None) -> np.ndarray[Any, Any]:
    """Any array that travels: every dtype and byte order, odd and empty shapes, strided views."""
    order = draw(st.sampled_from("<>"))
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(order)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if first is not None:
        shape = (first, *shape[:3])
    array = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype)))
    view = draw(st.sampled_from(("as it is", "reversed", "transposed")))
    if view == "reversed" and first is None and array.ndim:
        return array[::-1]
    return array.T if view == "transposed" and first is None else array


@st.composite
def requests(draw: st.DrawFn) -> ScoreRequest:
    query = draw(st.dictionaries(names, arrays(), max_size=3))
    version = draw(st.none() | names)
    if draw(st.booleans()):
        k = draw(st.integers(1, 10_000_000))
        return ScoreRequest(model=draw(names), query=query, k=k, version=version)
    n = draw(st.integers(0, 5))
    candidates = draw(st.dictionaries(names, arrays(first=n), min_size=1, max_size=3))
    return ScoreRequest(model=draw(names), query=query, candidates=candidates, version=version)


@st.composite
def replies(draw: st.DrawFn) -> ScoreReply:
    n = draw(st.integers(0, 20))
    return ScoreReply(
        model=draw(names),
        bundle=draw(names),
        scores=draw(hnp.arrays(np.float32, n)),
        items=draw(st.none() | hnp.arrays(np.int64, n)),
        uncertainty=draw(st.none() | st.floats(0, 1)),
        threshold=draw(st.none() | floats),
        timings=draw(st.dictionaries(names, floats, max_size=4)),
    )


def whole(parts: list[Any]) -> bytes:
    return b"".join(parts)


def assert_same_tensors(sent: Any, came: Any) -> None:
    assert list(came) == list(sent)
    for name, array in sent.items():
        assert came[name].dtype == array.dtype.newbyteorder("<")
        assert came[name].shape == array.shape
        np.testing.assert_array_equal(came[name], array)
        assert not came[name].flags.writeable


@given(requests())
def test_a_request_survives_the_wire(request: ScoreRequest) -> None:
    came = decode_request(whole(encode_request(request)))
    assert (came.model, came.version, came.k) == (request.model, request.version, request.k)
    assert_same_tensors(request.query, came.query)
    assert (came.candidates is None) == (request.candidates is None)
    assert_same_tensors(request.candidates or {}, came.candidates or {})


@given(replies())
def test_a_reply_survives_the_wire(reply: ScoreReply) -> None:
    came = decode_reply(whole(encode_reply(reply)))
    assert (came.model, came.bundle) == (reply.model, reply.bundle)
    assert (came.uncertainty, came.threshold) == (reply.uncertainty, reply.threshold)
    assert came.timings == reply.timings
    np.testing.assert_array_equal(came.scores, reply.scores)
    assert (came.items is None) == (reply.items is None)
    np.testing.assert_array_equal(
        () if came.items is None else came.items, () if reply.items is None else reply.items
    )


@given(names, st.text(min_size=1, max_size=200), st.none() | floats)
def test_an_error_survives_the_wire(code: str, message: str, retry_after: float | None) -> None:
    message = message.encode("utf-8", "replace").decode()
    error = ErrorReply(code=code, message=message, retry_after=retry_after)
    assert decode_error(whole(encode_error(error))) == error


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_buffer_is_read_and_its_tensors_are_read_only_views(
    buffer: Callable[[bytes], Any],
) -> None:
    data = buffer(FRAME)
    came = decode_request(data)
    assert np.shares_memory(came.query["h"], np.frombuffer(data, np.uint8))
    assert not came.query["h"].flags.writeable


def test_contiguous_arrays_are_sent_without_a_copy() -> None:
    array = np.arange(640, dtype=np.float32).reshape(10, 64)
    parts = encode_request(ScoreRequest(model="m", query={}, candidates={"x": array}))
    assert np.shares_memory(np.frombuffer(parts[-1], np.uint8), array)


def test_every_tensor_starts_at_a_multiple_of_sixteen() -> None:
    query = {"a": np.ones(3, np.int8), "b": np.ones(5, np.float64), "c": np.ones(1, np.int16)}
    frame = whole(encode_request(ScoreRequest(model="m", query=query, k=1)))
    base = np.frombuffer(frame, np.uint8).ctypes.data
    came = decode_request(frame).query
    assert [(array.ctypes.data - base) % 16 for array in came.values()] == [0, 0, 0]


def test_numpy_scalars_are_numbers_too() -> None:
    request = ScoreRequest(model="m", query={}, k=np.int64(5))  # type: ignore[arg-type]
    assert decode_request(whole(encode_request(request))).k == 5
    reply = REPLY._replace(uncertainty=np.float32(0.5))  # type: ignore[arg-type]
    assert decode_reply(whole(encode_reply(reply))).uncertainty == 0.5


REQUEST = ScoreRequest(
    model="ranker",
    query={"h": np.arange(8, dtype=np.int64), "flag": np.array([True, False])},
    candidates={"x": np.ones((3, 4), np.float32), "id": np.arange(3)},
    version="1@abcdef012345",
)
REPLY = ScoreReply(
    model="ranker",
    bundle="1@abcdef012345",
    scores=np.ones(4, np.float32),
    items=np.arange(4),
    uncertainty=0.25,
    threshold=0.5,
    timings={"queue": 0.001},
)
ERROR = ErrorReply(code="overloaded", message="busy", retry_after=0.5)
FRAME = whole(encode_request(REQUEST))
SEEDS = (FRAME, whole(encode_reply(REPLY)), whole(encode_error(ERROR)))


@pytest.mark.parametrize(
    "request_",
    [
        ScoreRequest(model="", query={}, k=1),
        ScoreRequest(model="m" * 129, query={}, k=1),
        ScoreRequest(model="\ud800", query={}, k=1),
        ScoreRequest(model="m", query={}, k=0),
        ScoreRequest(model="m", query={}, k=10_000_001),
        ScoreRequest(model="m", query={}, k="3"),  # type: ignore[arg-type]
        ScoreRequest(model="m", query={}),
        ScoreRequest(model="m", query={}, candidates={}),
        ScoreRequest(model="m", query={}, candidates={"id": np.array(3)}),
        ScoreRequest(model="m", query={}, candidates={"id": np.ones(3)}, k=1),
        ScoreRequest(model="m", query={}, candidates={"a": np.ones(3), "b": np.ones(4)}),
        ScoreRequest(model="m", query={"": np.ones(1)}, k=1),
        ScoreRequest(model="m", query={"q": np.array(["text"])}, k=1),
        ScoreRequest(model="m", query={"q": np.array([object()])}, k=1),
        ScoreRequest(model="m", query={"q": np.ones(1, np.complex64)}, k=1),
        ScoreRequest(model="m", query={"q": np.ones(1, "datetime64[s]")}, k=1),
        ScoreRequest(model="m", query={"q": np.ones((1,) * 9)}, k=1),
        ScoreRequest(model="m", query={str(n): np.ones(1) for n in range(65)}, k=1),
    ],
)
def test_a_request_no_server_would_take_is_not_encoded(request_: ScoreRequest) -> None:
    with pytest.raises(FrameError):
        encode_request(request_)


@pytest.mark.parametrize(
    "wrong",
    [
        {"uncertainty": float("nan")},
        {"uncertainty": 1.5},
        {"uncertainty": "high"},
        {"threshold": float("inf")},
        {"scores": np.ones(4)},
        {"scores": np.ones((2, 2), np.float32)},
        {"items": np.arange(3)},
        {"items": np.arange(4, dtype=np.int32)},
        {"timings": {"queue": -1.0}},
        {"timings": {str(n): 0.0 for n in range(33)}},
        {"bundle": ""},
    ],
)
def test_a_reply_that_says_nonsense_is_not_encoded(wrong: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        encode_reply(REPLY._replace(**wrong))


def frame_of(header: object, tensors: bytes = b"") -> bytes:
    """A frame around any header."""
    packed = msgpack.packb(header)
    start = b"TLF\x01" + pack("<I", len(packed)) + packed
    return start + bytes(-len(start) % 16) + tensors


GOOD_SPEC = ["h", "f4", 4]
FLOATS = bytes(16)


def test_the_hand_made_frame_is_a_good_one() -> None:
    came = decode_request(frame_of(["q", "m", None, 3, [GOOD_SPEC], None], FLOATS))
    assert (came.k, came.query["h"].tolist()) == (3, [0.0] * 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TLF\x01",
        b"TLF\x02" + FRAME[4:],
        FRAME[:-1],
        FRAME + b"\0",
        FRAME[:4] + b"\xff\xff\xff\xff" + FRAME[8:],
        b"TLF\x01" + pack("<I", 70_000) + bytes(70_000),
        frame_of({"q": 1}),
        frame_of(["q"]),
        frame_of(["r", "m", None, 3, [], None]),
        frame_of(["q", b"m", None, 3, [], None]),
        frame_of(["q", 5, None, 3, [], None]),
        frame_of(["q", "m", 5, 3, [], None]),
        frame_of(["q", "m", None, True, [], None]),
        frame_of(["q", "m", None, 3.0, [], None]),
        frame_of(["q", "m", None, -3, [], None]),
        frame_of(["q", "m", None, 2**60, [], None]),
        frame_of(["q", "m", None, None, [], None]),
        frame_of(["q", "m", None, 3, None, None]),
        frame_of(["q", "m", None, 3, [], []]),
        frame_of(["q", "m", None, 3, "specs", None]),
        frame_of(["q", "m", None, 3, [5], None]),
        frame_of(["q", "m", None, 3, [["h"]], None]),
        frame_of(["q", "m", None, 3, [["h", "O8", 4]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", ">f4", 4]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", [], 4]], None], FLOATS),
        frame_of(["q", "m", None, 3, [[5, "f4", 4]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", -4]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", 4.0]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", True]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", 5]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", 3]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", *[1] * 9]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", 2**63, 2]], None], FLOATS),
        frame_of(["q", "m", None, 3, [["h", "f4", 0, 2**62, 2**62]], None]),
        frame_of(["q", "m", None, 3, [GOOD_SPEC, GOOD_SPEC], None], FLOATS * 2),
        frame_of(["q", "m", None, 3, [["a", "i1", 1], ["b", "i1", 1]], None], b"\0" + b"x" * 16),
        frame_of(["q", "m", None, 3, [["flag", "b1", 2]], None], b"\x01\x02"),
        frame_of(["q", "m", None, None, [], [["a", "i1", 1], ["b", "i1", 2]]], bytes(18)),
        frame_of(["q", "m", None, 3, [[str(n), "i1", 0] for n in range(65)], None]),
        frame_of(["q", "m", None, None, *[[[str(n), "i1", 0] for n in range(40)]] * 2]),
    ],
)
def test_a_malformed_request_is_a_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_request(data)


@pytest.mark.parametrize("data", [5, None, np.zeros((4, 4))[:, 1]])
def test_what_is_no_contiguous_buffer_is_a_frame_error(data: Any) -> None:
    with pytest.raises(FrameError):
        decode_request(data)


def test_a_frame_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(FrameError, match="at most 100"):
        decode_request(FRAME, Limits(max_frame_bytes=100))


NESTED = b"\x91" * 60_000 + b"\xc0"
WIDE = b"\xdd\xff\xff\xff\xff"
HOSTILE = {
    "deep nesting": NESTED,
    "deep nesting of wide arrays": b"\xdc\x00\x40" * 20_000,
    "an array of four thousand million": WIDE + b"\xc0" * 1000,
    "a map of four thousand million": b"\xdf\xff\xff\xff\xff" + b"\xc0" * 1000,
    "a string of four gigabytes": b"\xdb\xff\xff\xff\xff" + b"x" * 1000,
    "a blob of four gigabytes": b"\xc6\xff\xff\xff\xff" + b"x" * 1000,
    "an extension": b"\xc9\xff\xff\xff\xff\x05" + b"x" * 1000,
    "a timestamp": b"\x91\xd7\xff" + b"\xff" * 8,
    "a string that is no UTF-8": b"\x91\xa2\xff\xfe",
    "a huge tensor": msgpack.packb(["q", "m", None, 3, [["h", "f8", 2**40]], None]),
    "a huge overflowing tensor": msgpack.packb(
        ["q", "m", None, 3, [["h", "f8", *[2**62] * 8]], None]
    ),
    "many huge tensors": msgpack.packb(
        ["q", "m", None, 3, [[str(n), "i1", 2**24] for n in range(64)], None]
    ),
}


@pytest.mark.parametrize("packed", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("decode", [decode_request, decode_reply, decode_error])
def test_a_hostile_header_is_refused_and_allocates_little(
    decode: Callable[[bytes], object], packed: bytes
) -> None:
    data = b"TLF\x01" + pack("<I", len(packed)) + packed + bytes(-(8 + len(packed)) % 16)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def _judge(data: bytes) -> int:
    """How many of the three readers took the bytes; anything but FrameError escapes."""
    taken = 0
    for decode in (decode_request, decode_reply, decode_error):
        try:
            decode(data)
            taken += 1
        except FrameError:
            continue
    return taken


@given(st.binary(max_size=200))
def test_random_bytes_behind_a_good_preamble_are_judged(data: bytes) -> None:
    _judge(b"TLF\x01" + pack("<I", len(data)) + data + bytes(-(8 + len(data)) % 16))


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=5) | st.sampled_from(["q", "r", "e", "f4"]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
))  # fmt: skip
def test_any_value_in_any_field_is_judged(header: object) -> None:
    _judge(frame_of(header))


@pytest.mark.slow
def test_a_hundred_thousand_mutated_frames_are_judged() -> None:
    rng = np.random.default_rng(11)
    begin = time.perf_counter()
    taken = 0
    for round_ in range(100_000):
        data = bytearray(SEEDS[round_ % 3])
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(0, len(data)))
            match int(rng.integers(0, 4)):
                case 0:
                    data[place] = int(rng.integers(0, 256))
                case 1:
                    data[place] ^= 1 << int(rng.integers(0, 8))
                case 2:
                    del data[place : place + int(rng.integers(1, 5))]
                case _:
                    data[place:place] = rng.bytes(int(rng.integers(1, 5)))
            data = data or bytearray(b"T")
        taken += _judge(bytes(data))
    assert 0 < taken < 100_000  # some mutations only change a tensor's values
    print(f"{time.perf_counter() - begin:.1f} s, {taken} taken")
