"""What toxics do to bytes, at instants of a made-up clock; Toxiproxy's words, refused otherwise."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_drills.proxy.toxics import (
    DOWNSTREAM,
    UPSTREAM,
    BadToxic,
    Piece,
    Stream,
    Toxic,
    read_toxic,
)


def toxic(kind: str, toxicity: float = 1.0, **attributes: float) -> Toxic:
    return Toxic(name=kind, type=kind, toxicity=toxicity, attributes=attributes)


def stream(seed: int = 1) -> Stream:
    return Stream(DOWNSTREAM, 0.0, Random(seed))


def test_latency_delays_by_its_milliseconds_within_the_jitter() -> None:
    (piece,) = stream().offered(b"x", 1.0, [toxic("latency", latency=100, jitter=20)])
    assert 1.08 <= piece.at <= 1.12


def test_bandwidth_lets_so_many_kilobytes_a_second_through() -> None:
    line, slow = stream(), [toxic("bandwidth", rate=10)]
    first, second = (line.offered(b"x" * 1000, 0.0, slow)[0] for _ in range(2))
    assert (first.at, second.at) == (pytest.approx(0.1), pytest.approx(0.2))


def test_a_timeout_of_zero_swallows_everything_and_never_closes() -> None:
    line = stream()
    assert line.offered(b"x", 0.0, [toxic("timeout", timeout=0)]) == []
    assert line.doom(0.0, [toxic("timeout", timeout=0)]) is None
    assert line.doom(2.0, [toxic("timeout", timeout=500)]) == Piece(2.5, b"", "close")


def test_a_reset_comes_at_once_or_after_its_time() -> None:
    assert stream().doom(3.0, [toxic("reset_peer", timeout=0)]) == Piece(3.0, b"", "reset")
    assert stream().doom(3.0, [toxic("reset_peer", timeout=200)]) == Piece(3.2, b"", "reset")


def test_slow_close_holds_back_the_end_only() -> None:
    line, held = stream(), [toxic("slow_close", delay=300)]
    assert line.offered(b"x", 1.0, held)[0].at == 1.0
    assert line.closing(1.0, held) == pytest.approx(1.3)


def test_a_limit_lets_its_bytes_through_and_closes() -> None:
    line, limit = stream(), [toxic("limit_data", bytes=5)]
    assert line.offered(b"abc", 0.0, limit) == [Piece(0.0, b"abc")]
    assert line.offered(b"defg", 0.0, limit) == [Piece(0.0, b"de", "close")]
    assert line.offered(b"h", 0.0, limit) == [Piece(0.0, b"", "close")]


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    st.integers(1, 100),
    st.integers(0, 99),
    st.integers(0, 100),
    st.integers(0, 2**32),
)
def test_slices_and_delays_change_no_byte_and_no_order(
    chunks: list[bytes], average: int, variation: int, jitter: int, seed: int
) -> None:
    line = stream(seed)
    toxics = [
        toxic("slicer", average_size=average, size_variation=variation, delay=10),
        toxic("latency", latency=50, jitter=jitter),
        toxic("bandwidth", rate=100),
    ]
    pieces = [p for i, chunk in enumerate(chunks) for p in line.offered(chunk, i * 0.01, toxics)]
    assert b"".join(piece.data for piece in pieces) == b"".join(chunks)
    assert [piece.at for piece in pieces] == sorted(piece.at for piece in pieces)


def test_toxicity_is_drawn_once_a_connection() -> None:
    half = [toxic("timeout", toxicity=0.5)]
    lines = [stream(seed) for seed in range(200)]
    struck = [not line.offered(b"x", 0.0, half) for line in lines]
    assert 70 < sum(struck) < 130
    assert struck == [not line.offered(b"y", 1.0, half) for line in lines]


def test_a_toxic_strikes_its_own_direction_only() -> None:
    line = Stream(UPSTREAM, 0.0, Random(1))
    assert line.offered(b"x", 0.0, [toxic("timeout")]) == [Piece(0.0, b"x")]


def test_a_toxic_is_named_as_toxiproxy_names_it() -> None:
    found = read_toxic({"type": "latency", "attributes": {"latency": 5}})
    assert (found.name, found.stream, found.toxicity) == ("latency_downstream", DOWNSTREAM, 1.0)
    assert found.to_json()["attributes"] == {"latency": 5, "jitter": 0}
    changed = read_toxic({"attributes": {"jitter": 1}}, found)
    assert changed.to_json()["attributes"] == {"latency": 5, "jitter": 1}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"type": "earthquake"}, "type must be one of"),
        ({"type": "latency", "stream": "sideways"}, "stream must be"),
        ({"type": "latency", "toxicity": 2}, "toxicity must be"),
        ({"type": "latency", "attributes": {"delay": 1}}, "has no attribute 'delay'"),
        ({"type": "latency", "attributes": {"latency": -1}}, "must be a number from 0"),
        ({"type": "latency", "attributes": [1]}, "attributes must be an object"),
    ],
)
def test_a_toxic_we_do_not_know_is_refused(value: dict[str, object], why: str) -> None:
    with pytest.raises(BadToxic, match=why):
        read_toxic(value)
