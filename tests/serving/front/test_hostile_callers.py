"""Callers who are slow, idle, flooding or talk nonsense are hung up on; nobody else waits."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_scorer import a_request
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Served, running_fake

from tierline.wire import decode_error, decode_reply, encode_request

READ_TIMEOUT = 0.6
MIB = 2**20
HEAD = b"POST /v1/score HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with little patience and little room."""
    with running_fake(
        tmp_path_factory.mktemp("hurried"),
        read_timeout=READ_TIMEOUT,
        write_timeout=READ_TIMEOUT,
        max_connections=40,
        max_body_bytes=8 * MIB,
        max_held_bytes=16 * MIB,
    ) as served:
        yield served


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        yield connection


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the server hangs up."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass
    return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def assert_still_serves(served: Served) -> None:
    answered = served.ask("POST", "/v1/score", b"".join(encode_request(a_request(5))))
    assert (answered.status, decode_reply(answered.body).scores.tolist()) == (200, [5.0])


def test_a_connection_that_says_nothing_is_closed(hurried: Served) -> None:
    with connected(hurried) as connection:
        started = time.monotonic()
        assert rest_of(connection) == b""
        assert time.monotonic() - started < 10 * READ_TIMEOUT


def test_a_head_that_never_ends_is_408(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD)
        assert status_of(rest_of(connection)) == 408
    assert_still_serves(hurried)


def test_a_second_head_that_never_ends_is_408_too(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        received = b""
        while not received.endswith(b"alive\n"):
            received += connection.recv(65536)
        connection.sendall(HEAD)
        assert status_of(rest_of(connection)) == 408


def test_a_body_that_never_begins_ends_the_connection(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"content-length: 10\r\n\r\n")
        assert rest_of(connection) == b""


def test_a_body_that_dribbles_is_408(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"content-length: 10\r\n\r\nx")
        answer = rest_of(connection)
        assert status_of(answer) == 408
        assert b"did not arrive within 0.6 s" in answer


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"x-long: " + b"x" * 300_000,
        b"GET /" + b"a" * 300_000,
        HEAD + b"".join(b"h%d: x\r\n" % n for n in range(200)) + b"\r\n",
    ],
    ids=["header", "path", "headers"],
)
def test_a_head_too_long_is_431_or_hung_up_on(hurried: Served, head: bytes) -> None:
    with connected(hurried) as connection:
        try:
            connection.sendall(head)
        except ConnectionError:
            return  # hung up on while still talking
        answer = rest_of(connection)
        assert answer == b"" or status_of(answer) == 431


def test_requests_flooding_ahead_of_their_answers_end_the_connection(hurried: Served) -> None:
    before = hurried.resident
    with connected(hurried) as connection:
        try:
            for _ in range(20):
                connection.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n" * 5_000)
        except ConnectionError:
            pass
        assert len(rest_of(connection)) < 2 * MIB
    assert hurried.resident - before < 100 * MIB
    assert_still_serves(hurried)


def test_a_caller_who_never_reads_is_hung_up_on(hurried: Served) -> None:
    body = b"".join(encode_request(a_request(*[7] * 60_000)))
    request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(20)
        deaf.connect(("127.0.0.1", hurried.port))
        with pytest.raises(ConnectionError):
            deaf.sendall(request * 40)
    assert_still_serves(hurried)


def test_a_full_house_has_room_for_whoever_asks_something(hurried: Served) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connected(hurried))
        assert_still_serves(hurried)


def test_large_bodies_are_held_up_to_a_limit_and_small_ones_pass(hurried: Served) -> None:
    before = hurried.resident
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(hurried)) for _ in range(12)]
        for connection in connections:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % (8 * MIB))
            try:
                connection.sendall(bytes(6 * MIB))
            except ConnectionError:
                continue  # refused and hung up on while still sending
        assert_still_serves(hurried)
        assert hurried.resident - before < 150 * MIB
        answers = [rest_of(connection) for connection in connections]
    statuses = sorted(status_of(answer) for answer in answers if answer)
    assert set(statuses) <= {408, 429}
    assert 429 in statuses


def test_an_honest_large_body_is_answered_afterwards(hurried: Served) -> None:
    ids = list(np.ones(60_000, int))
    answered = hurried.ask("POST", "/v1/score", b"".join(encode_request(a_request(*ids))))
    assert answered.status == 200


def test_thousands_of_idle_connections_cost_little_and_nobody_waits(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with running_fake(tmp_path, max_connections=2500) as served, ExitStack() as stack:
            assert_still_serves(served)
            before = served.resident
            for _ in range(2000):
                stack.enter_context(connected(served))
            assert_still_serves(served)
            assert served.resident - before < 100 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_body_announced_too_large_is_refused_unread(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"content-length: 1000000000000\r\n\r\n")
        head, _, body = rest_of(connection).partition(b"\r\n\r\n")
        assert status_of(head) == 413
        assert decode_error(body).code == "too_large"


words = st.sampled_from(
    [
        *(b"GET", b"POST", b"PUT", b" ", b"/", b"/v1/score", b"/v2/models/ranker/infer"),
        *(b"/rerank", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/9.9", b"\r\n", b"\n", b"\r\n\r\n"),
        *(b"content-length: ", b"transfer-encoding: chunked", b"host: a", b"5", b"-1", b"0"),
        *(b"content-encoding: gzip", b"inference-header-content-length: 3", b"connection: "),
        *(b"upgrade: websocket", b"expect: 100-continue", b"{}", b"\x00", b"\xff", b"%00"),
    ]
)


@settings(max_examples=120)
@given(said=st.one_of(st.binary(max_size=300), st.lists(words, max_size=25).map(b"".join)))
def test_any_bytes_get_an_answer_below_500_or_are_hung_up_on(hurried: Served, said: bytes) -> None:
    with connected(hurried) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        answer = rest_of(connection)
    assert answer == b"" or status_of(answer) < 500 or status_of(answer) == 505


@settings(max_examples=120)
@given(
    path=st.sampled_from(
        [
            *("/v1/score", "/v2/models/ranker/infer", "/v2/repository/index", "/rerank"),
            *("/v1/rerank", "/v2/rerank", "/v2/repository/models/ranker/load"),
        ]
    ),
    body=st.binary(max_size=200)
    | st.sampled_from(
        [
            b'{"inputs": []}',
            b'{"query": [1], "texts": [1, 2]}',
            b'{"query": "1", "documents": ["1", {"id": 2}], "model": "ranker"}',
            b'{"parameters": {"config": "{}"}}',
            b"null",
        ]
    ),
    headers=st.dictionaries(
        st.sampled_from(
            [
                *("Content-Encoding", "Accept-Encoding", "Inference-Header-Content-Length"),
                *("X-Request-Id", "X-Tierline-Deadline-Ms", "Content-Type"),
            ]
        ),
        st.sampled_from(["gzip", "deflate", "0", "5", "-1", "NaN", "a b", "1e9", "*;q=2", "é"]),
        max_size=4,
    ),
)
def test_any_request_to_any_route_is_answered_below_500(
    hurried: Served, path: str, body: bytes, headers: dict[str, str]
) -> None:
    answered = hurried.ask("POST", path, body, headers)
    assert answered.status < 500 or answered.status == 504, answered
