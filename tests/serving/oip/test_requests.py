"""What an inference request may look like, byte by byte; anything else is a sentence."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tierline import BadRequest
from tierline.wire import Limits
from tierline_serving.front.encodings import chosen_encoding, decoded, encoded
from tierline_serving.front.exchange import Refused, Response
from tierline_serving.oip.datatypes import NUMPY
from tierline_serving.oip.paths import Operation, target_of
from tierline_serving.oip.requests import MAX_JSON_BYTES, InferRequest, InputSpec, parse_infer

LIMITS = Limits()
FLOATS = {"x": InputSpec(name="x", datatype="FP32", shape=(-1, 2))}


def parse(
    document: object, tail: bytes = b"", specs: dict[str, InputSpec] | None = None
) -> InferRequest:
    head = json.dumps(document).encode()
    return parse_infer(head + tail, str(len(head)), specs or FLOATS, LIMITS)


def x(**changes: object) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}


def binary(size: object, **changes: object) -> dict[str, Any]:
    entry = x(parameters={"binary_data_size": size}, **changes)
    del entry["data"]
    return entry


@settings(max_examples=100)
@given(data=st.data(), datatype=st.sampled_from(sorted(NUMPY)), as_json=st.booleans())
def test_any_tensor_comes_back_as_it_was_sent(
    data: st.DataObject, datatype: str, as_json: bool
) -> None:
    dtype = NUMPY[datatype]
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    array = data.draw(npst.arrays(dtype, shape, elements=elements or None))
    spec = InputSpec(name="t", datatype=datatype, shape=(-1,) * len(shape))
    entry: dict[str, Any] = {"name": "t", "datatype": datatype, "shape": list(shape)}
    tail = b""
    if as_json and datatype != "FP16":
        nested = data.draw(st.booleans())
        entry["data"] = (array if nested else array.ravel()).tolist()
    else:
        tail = array.tobytes()
        entry["parameters"] = {"binary_data_size": len(tail)}
    got = parse({"inputs": [entry]}, tail, {"t": spec}).inputs["t"]
    assert (got.dtype, got.shape) == (dtype, shape)
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("document", "tail", "sentence"),
    [
        ({"inputs": [x(data=[1, 2, 3])]}, b"", "takes 2 elements, got 3"),
        ({"inputs": [x(data=[[1], [2]])]}, b"", "not nested as"),
        ({"inputs": [x(data=[[1, 2], 3])]}, b"", "not nested as"),
        ({"inputs": [x(data="12")]}, b"", "must be a JSON array"),
        ({"inputs": [x(data=["1", "2"])]}, b"", "must be numbers"),
        ({"inputs": [x(data=[True, False])]}, b"", "must be numbers"),
        ({"inputs": [x(data=[1e39, 0])]}, b"", "not finite in FP32"),
        ({"inputs": [x(data=[10**400, 0])]}, b"", "does not fit into FP32"),
        ({"inputs": [x(shape=[-1, 2])]}, b"", "whole numbers"),
        ({"inputs": [x(shape=[1.0, 2])]}, b"", "whole numbers"),
        ({"inputs": [x(shape=[True, 2])]}, b"", "whole numbers"),
        ({"inputs": [x(shape=[2**60, 2])]}, b"", "beyond the limits"),
        ({"inputs": [x(shape=[1] * 9)]}, b"", "beyond the limits"),
        ({"inputs": [x(datatype="FP8")]}, b"", "there is no datatype 'FP8'"),
        ({"inputs": [x(datatype=["FP32"])]}, b"", "there is no datatype"),
        ({"inputs": [x(name=["x"])]}, b"", "has no input"),
        ({"inputs": ["x"]}, b"", "must be a JSON object"),
        ({"inputs": []}, b"", "at least one tensor"),
        ({"inputs": {"x": 1}}, b"", "at least one tensor"),
        ({"inputs": [x()] * 65}, b"", "at most 64 inputs"),
        ({}, b"", "at least one tensor"),
        ([], b"", "must be a JSON object"),
        ({"inputs": [binary(8)]}, b"\0" * 7, "8 bytes are announced, 7 are left"),
        ({"inputs": [binary(8)]}, b"\0" * 9, "1 bytes follow the last"),
        ({"inputs": [binary(4)]}, b"\0" * 4, "takes 8 bytes, got 4"),
        ({"inputs": [binary(-8)]}, b"\0" * 8, "must be a number of bytes"),
        ({"inputs": [binary(True)]}, b"\0" * 8, "must be a number of bytes"),
        ({"inputs": [{**binary(8), "data": [1, 2]}]}, b"\0" * 8, "either data or"),
        ({"inputs": [binary(None)]}, b"", "either data or"),
        ({"inputs": [x(parameters=[])]}, b"", "parameters must be a JSON object"),
        ({"inputs": [x()], "parameters": {"triton_x": 1}}, b"", "is reserved"),
        ({"inputs": [x()], "parameters": {"timeout": -1}}, b"", "positive number"),
        ({"inputs": [x()], "parameters": {"timeout": "1"}}, b"", "positive number"),
        ({"inputs": [x()], "parameters": {"binary_data_output": 1}}, b"", "true or false"),
        ({"inputs": [x()], "id": 7}, b"", "id must be a text"),
        ({"inputs": [x()], "id": "i" * 1025}, b"", "id must be a text"),
        ({"inputs": [x()], "outputs": [{"name": "a"}, {"name": "a"}]}, b"", "asked for twice"),
        ({"inputs": [x()], "outputs": ["scores"]}, b"", "with a name"),
        ({"inputs": [x()], "outputs": [{"name": "a"}] * 65}, b"", "at most 64"),
    ],
)
def test_what_is_malformed_is_refused_with_a_sentence(
    document: object, tail: bytes, sentence: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(document, tail)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("length", ["-1", "1000", "1e2", "٣", "", "9" * 20, "0x10"])
def test_a_header_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length must be"):
        parse_infer(b"{}", length, FLOATS, LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [NaN]}',
        b'{"inputs": [Infinity]}',
        b"\xff\xfe{}",
        b'{"a":' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"inputs":',
        b"",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="JSON"):
        parse_infer(body, None, FLOATS, LIMITS)


def test_a_json_part_too_long_to_parse_in_passing_is_too_large() -> None:
    with pytest.raises(Refused) as refused:
        parse_infer(b" " * (MAX_JSON_BYTES + 1), None, FLOATS, LIMITS)
    assert refused.value.status == 413


@pytest.mark.parametrize("byte", [b"\2", b"\xff"])
def test_a_bool_is_zero_or_one(byte: bytes) -> None:
    specs = {"x": InputSpec(name="x", datatype="BOOL", shape=(-1,))}
    entry = {"name": "x", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}}
    with pytest.raises(BadRequest, match="a byte of 0 or 1"):
        parse({"inputs": [entry]}, byte, specs)


def test_a_body_of_one_tensor_alone_takes_its_shape_from_its_size() -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    request = parse_infer(raw, "0", FLOATS, LIMITS)
    assert request.inputs["x"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert request.binary_default
    with pytest.raises(BadRequest, match="takes 16 bytes, got 17"):
        parse_infer(raw[:17], "0", FLOATS, LIMITS)
    two = {**FLOATS, "y": InputSpec(name="y", datatype="FP32", shape=(1,))}
    with pytest.raises(BadRequest, match="only a model with one input"):
        parse_infer(raw, "0", two, LIMITS)


@settings(max_examples=300)
@given(
    body=st.one_of(
        st.binary(max_size=100),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["inputs", "name", "shape", "datatype", "data", "parameters"]),
                    inner,
                    max_size=4,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    length=st.none() | st.integers(-5, 120).map(str),
)
def test_any_body_is_parsed_or_refused_and_nothing_else(body: bytes, length: str | None) -> None:
    try:
        request = parse_infer(body, length, FLOATS, LIMITS)
    except (BadRequest, Refused):
        return
    assert request.inputs["x"].dtype == np.float32


@settings(max_examples=100)
@given(flip=st.tuples(st.integers(0, 10_000), st.integers(0, 255)), cut=st.integers(0, 10_000))
def test_a_damaged_request_is_parsed_or_refused_and_nothing_else(
    flip: tuple[int, int], cut: int
) -> None:
    head = json.dumps({"inputs": [binary(8)], "outputs": [{"name": "scores"}]}).encode()
    body = bytearray(head + np.array([[1, 2]], "<f4").tobytes())
    body[flip[0] % len(body)] = flip[1]
    try:
        request = parse_infer(bytes(body[: cut % (len(body) + 1)]), str(len(head)), FLOATS, LIMITS)
    except (BadRequest, Refused):
        return
    assert request.inputs["x"].shape == (1, 2)


@given(plain=st.binary(max_size=2000), name=st.sampled_from(["gzip", "deflate", "x-gzip"]))
def test_compressed_bodies_come_out_as_they_went_in(plain: bytes, name: str) -> None:
    packed = zlib.compress(plain) if name == "deflate" else gzip.compress(plain)
    assert decoded(packed, name, 2000) == plain


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    bomb = zlib.compress(bytes(20_000_000))
    with pytest.raises(Refused) as refused:
        decoded(bomb, "deflate", 1_000_000)
    assert (refused.value.status, refused.value.error.code) == (413, "too_large")


@pytest.mark.parametrize(
    ("body", "name", "status"),
    [
        (gzip.compress(b"x")[:-1], "gzip", 400),
        (gzip.compress(b"x") + b"more", "gzip", 400),
        (b"no gzip at all", "gzip", 400),
        (gzip.compress(b"x"), "deflate", 400),
        (b"x", "br", 415),
        (gzip.compress(gzip.compress(b"x")), "gzip, gzip", 415),
    ],
    ids=["cut short", "more after it", "no gzip", "not deflate", "unknown", "twice"],
)
def test_damaged_and_unknown_encodings_are_refused(body: bytes, name: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        decoded(body, name, 1000)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("accepts", "chosen"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.2, deflate;q=0.8", "deflate"),
        ("gzip;q=0, deflate;q=0", None),
        ("br", None),
        ("*", "gzip"),
        ("identity, *;q=0", None),
        ("gzip;q=nonsense", None),
        ("", None),
    ],
)
def test_an_answer_is_compressed_as_the_caller_weighs(accepts: str, chosen: str | None) -> None:
    assert chosen_encoding(accepts) == chosen


def test_a_small_answer_is_not_compressed_and_a_large_one_says_how() -> None:
    assert encoded(Response(200, b"x" * 100), "gzip").body == b"x" * 100
    large = encoded(Response(200, b"x" * 1000), "gzip")
    assert gzip.decompress(large.body) == b"x" * 1000
    assert (b"content-encoding", b"gzip") in large.headers


@pytest.mark.parametrize(
    ("path", "operation", "model", "version"),
    [
        ("/v2", Operation.SERVER, "", None),
        ("/v2/", Operation.SERVER, "", None),
        ("/v2/models/a%2Fb/infer", Operation.INFER, "a/b", None),
        ("/v2/models/m/versions/1%40ab/ready", Operation.MODEL_READY, "m", "1@ab"),
        ("/v2/models/stats", Operation.ALL_STATISTICS, "", None),
        ("/v2/models/m/stats", Operation.STATISTICS, "m", None),
        ("/v2/repository/models/m/load", Operation.LOAD, "m", None),
        ("/v2/cudasharedmemory/region/r/register", Operation.UNSERVED, "", None),
    ],
)
def test_a_path_names_an_operation(
    path: str, operation: Operation, model: str, version: str | None
) -> None:
    target = target_of(path)
    assert target is not None
    assert (target.operation, target.model, target.version) == (operation, model, version)


@pytest.mark.parametrize("path", ["/", "/v22", "/v2/model", "/v2/models/m/versions/1/x", "/v3"])
def test_other_paths_name_nothing(path: str) -> None:
    assert target_of(path) is None


def test_a_timeout_too_long_to_count_is_none() -> None:
    request = parse({"inputs": [x()], "parameters": {"timeout": 10**30}})
    assert request.timeout is None
    assert math.isclose(
        parse({"inputs": [x()], "parameters": {"timeout": 80_000}}).timeout or 0.0, 0.08
    )
