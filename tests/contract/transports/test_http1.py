"""The HTTP/1.1 parser: strict, and indifferent to how the bytes were cut."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._exceptions import RemoteProtocolError
from tierline._transports import WireRequest, WireResponse
from tierline._transports.http1 import MAX_HEAD, ResponseParser, parse_head, request_head
from tierline.wire.headers import BODY_ALIGNMENT

OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "length": OK + b"Content-Length: 5\r\nX-A:  b \t\r\n\r\nhello",
    "chunks": OK
    + b"transfer-encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nt: 1\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
    "no reason": b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello",
}


def read(data: bytes, *cuts: int) -> tuple[WireResponse | None, ResponseParser]:
    """Feed the bytes in pieces."""
    parser = ResponseParser()
    response = None
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        response = parser.feed(data[begin:end])
        if response is not None:
            break
    return response, parser


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS.keys())
@given(cuts=st.lists(st.integers(0, 200), max_size=6))
def test_an_answer_is_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    response, parser = read(data, *cuts)
    assert response is not None
    assert (response.status, bytes(response.body)) == (200, b"hello")
    assert parser.reusable


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_is_not_whole_before_its_last_byte(data: bytes) -> None:
    for end in range(len(data)):
        assert read(data[:end])[0] is None


def test_values_lose_the_blanks_around_them() -> None:
    response, _ = read(ANSWERS["length"])
    assert response is not None
    assert response.headers == {"content-length": "5", "x-a": "b"}


def test_repeated_headers_are_joined() -> None:
    assert parse_head("HTTP/1.1 204 x\r\na: 1\r\nA: 2\r\n").headers == {"a": "1, 2"}


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n", True),
    ],
)
def test_a_connection_is_kept_only_when_both_sides_want_it(head: bytes, reusable: bool) -> None:
    response, parser = read(head + b"content-length: 0\r\n\r\n")
    assert response is not None
    assert parser.reusable is reusable


@given(cut=st.integers(0, 100))
def test_bytes_behind_an_answer_spoil_the_connection(cut: int) -> None:
    parser = ResponseParser()
    data = ANSWERS["length"] + b"HTTP/1.1 200 OK\r\n"
    cut = cut % len(ANSWERS["length"])
    response = parser.feed(data[:cut]) or parser.feed(data[cut:])
    assert response is not None
    assert not parser.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"<html>",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        OK + b"\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: +1\r\n\r\n",
        OK + b"content-length: 1, 1\r\n\r\n",
        OK + b"content-length: 1\r\ncontent-length: 1\r\n\r\nx",
        OK + b"content-length: 0x1\r\n\r\n",
        OK + b"content-length: 999999999999\r\n\r\n",
        OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        OK + b"transfer-encoding: identity\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
        OK + b"a : b\r\ncontent-length: 0\r\n\r\n",
        OK + b"bad header: b\r\ncontent-length: 0\r\n\r\n",
        OK + b": b\r\ncontent-length: 0\r\n\r\n",
        OK + b"a: b\nc: d\r\ncontent-length: 0\r\n\r\n",
        OK + b"a: b\rc: d\r\ncontent-length: 0\r\n\r\n",
        OK + b"a: \0\r\ncontent-length: 0\r\n\r\n",
        OK + b"x: " + b"y" * MAX_HEAD + b"\r\n\r\n",
        OK + b"x: " + b"y" * MAX_HEAD,
        OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nfffffff\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nfffffffff\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n1" + b" " * 300,
        OK + b"transfer-encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
    ],
)
def test_an_answer_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(data)
    with pytest.raises(RemoteProtocolError):
        read(data, *range(1, min(len(data), 600)))


@given(st.binary(max_size=300), st.integers(0, 80))
def test_any_bytes_are_an_answer_or_a_remote_protocol_error(data: bytes, keep: int) -> None:
    for start in (b"", ANSWERS["chunks"][:keep], ANSWERS["length"][:keep]):
        try:
            read(start + data)
        except RemoteProtocolError:
            continue


def test_a_body_lies_aligned_in_memory_whatever_the_heads_length() -> None:
    import numpy as np

    for filler in range(16):
        data = OK + b"x: %b\r\ncontent-length: 64\r\n\r\n" % (b"y" * filler) + bytes(64)
        for cuts in ((), (len(data) - 3,)):
            response, _ = read(data, *cuts)
            assert response is not None
            assert np.frombuffer(response.body, np.uint8).ctypes.data % 16 == 0


def test_a_head_has_a_length_only_with_a_body() -> None:
    assert request_head(WireRequest("GET", "/x"), "host: a\r\n") == (
        b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"
    )
    assert request_head(WireRequest("POST", "/x", [("a", "b")]), "") == (
        b"POST /x HTTP/1.1\r\na: b\r\ncontent-length:    0\r\n\r\n"
    )
    body = (b"12", memoryview(b"12345678").cast("i"))
    lines = request_head(WireRequest("POST", "/x", (), body), "").split(b"\r\n")
    name, _, value = lines[1].partition(b":")
    assert (name, value.strip()) == (b"content-length", b"10")


@given(st.text("abc", max_size=20), st.integers(0, 100_000))
def test_a_body_begins_where_its_tensors_are_aligned_behind_any_head(
    filler: str, size: int
) -> None:
    request = WireRequest("POST", "/x", [("a", filler)], (bytes(size),))
    head = request_head(request, f"host: {filler}\r\n")
    assert len(head) % BODY_ALIGNMENT == 0
    parsed = h11.Connection(h11.SERVER)
    parsed.receive_data(head)
    event = parsed.next_event()
    assert isinstance(event, h11.Request)
    assert dict(event.headers)[b"content-length"] == b"%d" % size
