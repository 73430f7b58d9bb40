"""What every transport must do, on TCP and on Unix sockets."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tierline._exceptions import (
    AttemptTimedOut,
    ConnectFailed,
    LocalProtocolError,
    RemoteProtocolError,
)
from tierline._transports import WireRequest

from .drivers import Driver, open_driver
from .scripted_server import WRONG, ScriptedServer

FRAME = os.urandom(26_000)


def get(path: str) -> WireRequest:
    return WireRequest("GET", path)


def post(path: str, *parts: bytes | memoryview) -> WireRequest:
    return WireRequest("POST", path, [("content-type", "application/x-tierline")], parts)


def test_a_frame_sent_in_parts_comes_back_whole(driver: Driver) -> None:
    answer = driver.send(post("/echo", FRAME[:64], memoryview(FRAME)[64:]))
    assert (answer.status, bytes(answer.body)) == (200, FRAME)


def test_a_body_larger_than_every_socket_buffer_comes_back_whole(driver: Driver) -> None:
    body = os.urandom(3 << 20)
    assert bytes(driver.send(post("/echo", body)).body) == body


def test_arrays_are_sent_as_they_are(driver: Driver) -> None:
    array = memoryview(bytes(range(240))).cast("i")
    assert bytes(driver.send(post("/echo", array)).body) == bytes(range(240))


def test_an_answer_in_several_pieces_is_put_together(driver: Driver) -> None:
    assert driver.send(get("/pieces")).body == b"abcdefghi"


def test_a_chunked_answer_is_put_together(driver: Driver) -> None:
    assert driver.send(get("/chunked")).body == b"abc0123456789"


def test_interim_answers_are_skipped(driver: Driver) -> None:
    assert driver.send(get("/interim")).body == b"real"


def test_an_error_status_is_an_answer(driver: Driver) -> None:
    answer = driver.send(get("/error"))
    assert (answer.status, answer.body) == (503, b"busy")


def test_an_answer_without_content_needs_no_length(driver: Driver) -> None:
    assert driver.send(get("/empty")).status == 204


def test_header_names_are_lower_case(driver: Driver) -> None:
    assert driver.send(get("/echo")).headers["x-seen"] == "yes"


def test_every_request_carries_the_standing_headers(kind: str, server: ScriptedServer) -> None:
    driver = open_driver(kind, server.url, headers=[("authorization", "Bearer x")])
    driver.send(WireRequest("POST", "/echo", [("x-request-id", "r1")], [b"12", b"345"]))
    driver.close()
    seen = server.seen_headers[0]
    assert (seen["authorization"], seen["x-request-id"]) == ("Bearer x", "r1")
    assert (seen["content-length"], seen["host"]) == (
        "5",
        server.url.partition("http://")[2] or "localhost",
    )
    assert "accept-encoding" not in seen


def test_one_connection_serves_one_request_after_another(
    driver: Driver, server: ScriptedServer
) -> None:
    for _ in range(10):
        driver.send(post("/echo", b"x"))
    assert server.connects == 1


def test_twenty_callers_need_a_connection_each_and_no_more(
    driver: Driver, server: ScriptedServer
) -> None:
    answers = driver.send_all([post("/echo", b"x")] * 100, callers=20)
    assert [answer.body for answer in answers] == [b"x"] * 100
    assert server.connects <= 20


def test_more_callers_than_connections_take_turns(kind: str, http_server: ScriptedServer) -> None:
    driver = open_driver(kind, http_server.url, max_connections=3)
    answers = driver.send_all([post("/echo", b"%d" % n) for n in range(60)], callers=20)
    driver.close()
    assert [answer.body for answer in answers] == [b"%d" % n for n in range(60)]
    assert http_server.connects <= 3


def test_a_connection_the_endpoint_closes_is_not_used_again(
    driver: Driver, server: ScriptedServer
) -> None:
    assert [driver.send(get("/say-close")).body for _ in range(3)] == [b"bye"] * 3
    assert (server.connects, len(server.requests)) == (3, 3)


def test_a_request_that_met_a_stale_connection_is_sent_once_more(
    driver: Driver, server: ScriptedServer
) -> None:
    assert [driver.send(get("/once")).body for _ in range(2)] == [b"ok", b"ok"]
    assert (server.connects, len(server.requests)) == (2, 3)


def test_what_an_endpoint_says_unasked_is_nobodys_answer(
    driver: Driver, server: ScriptedServer
) -> None:
    assert driver.send(get("/speak-unasked")).body == b"mine"
    assert server.wait_until_all_closed(5.0)
    answer = driver.send(post("/echo", b"x"))
    assert (answer.status, answer.body, server.connects) == (200, b"x", 2)


def test_a_fresh_connection_that_hangs_up_is_not_tried_again(
    driver: Driver, server: ScriptedServer
) -> None:
    with pytest.raises(RemoteProtocolError):
        driver.send(get("/hang-up"))
    assert server.connects == 1


@pytest.mark.parametrize("path", WRONG)
def test_an_answer_against_the_protocol_is_refused(
    http_driver: Driver, http_server: ScriptedServer, path: str
) -> None:
    with pytest.raises(RemoteProtocolError):
        http_driver.send(get(path), timeout=5.0)
    assert http_server.connects == 1
    assert http_driver.send(post("/echo", b"after")).body == b"after"


def test_a_refused_connection_is_connect_failed(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can be there
        driver = open_driver(kind, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ConnectFailed):
            driver.send(get("/echo"))
        driver.close()


@pytest.mark.parametrize("url", ["unix:///nowhere/at/all", "http://name.invalid:1"])
def test_an_address_that_is_not_there_is_connect_failed(kind: str, url: str) -> None:
    driver = open_driver(kind, url)
    with pytest.raises(ConnectFailed):
        driver.send(get("/echo"))
    driver.close()


@pytest.mark.parametrize("path", ["/never", "/drip-body", "/drip-head"])
def test_the_timeout_bounds_the_whole_attempt_even_when_bytes_drip(
    http_driver: Driver, path: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(AttemptTimedOut):
        http_driver.send(get(path), timeout=0.15)
    assert 0.14 <= time.monotonic() - begin < 1.0  # the dripped answer would take four seconds


def test_waiting_for_a_connection_counts(kind: str, http_server: ScriptedServer) -> None:
    driver = open_driver(kind, http_server.url, max_connections=1)
    requests = [get("/slow?s=0.4"), get("/slow?s=0.4")]
    with pytest.raises(AttemptTimedOut):
        driver.send_all(requests, callers=2, timeout=0.6)
    assert driver.send(post("/echo", b"x")).body == b"x"
    driver.close()


def test_after_a_timeout_the_late_answer_goes_to_nobody(http_driver: Driver) -> None:
    with pytest.raises(AttemptTimedOut):
        http_driver.send(get("/slow?s=0.1"), timeout=0.05)
    answers = http_driver.send_all([post("/echo", b"%d" % n) for n in range(40)], callers=4)
    assert [answer.body for answer in answers] == [b"%d" % n for n in range(40)]


def test_a_request_refused_before_it_was_read_gets_its_answer(http_driver: Driver) -> None:
    assert http_driver.send(post("/refuse-unread", b"x" * 300_000)).status == 413


@pytest.mark.parametrize(
    "request_",
    [
        WireRequest("PUT", "/echo"),
        WireRequest("GET", "echo"),
        WireRequest("GET", "/a b"),
        WireRequest("GET", "/echo", [("x", "a\r\ny: b")]),
        WireRequest("GET", "/echo", [("x y", "a")]),
        WireRequest("GET", "/echo", [("x", "é€")]),
        WireRequest("POST", "/echo", [("Content-Length", "3")]),
    ],
)
def test_a_request_that_would_break_the_protocol_is_not_sent(
    http_driver: Driver, http_server: ScriptedServer, request_: WireRequest
) -> None:
    with pytest.raises(LocalProtocolError):
        http_driver.send(request_)
    assert http_server.connects == 0


def test_a_closed_transport_sends_nothing(kind: str, http_server: ScriptedServer) -> None:
    driver = open_driver(kind, http_server.url)
    driver.send(get("/echo"))
    driver.close_transport()
    assert http_server.wait_until_all_closed(5.0)
    with pytest.raises(LocalProtocolError):
        driver.send(get("/echo"))
    driver.close()
    assert http_server.connects == 1


def test_another_thread_or_event_loop_is_served_too(driver: Driver, server: ScriptedServer) -> None:
    request = post("/echo", b"x")
    answers = [driver.send(request), driver.in_another_world(request), driver.send(request)]
    assert [answer.body for answer in answers] == [b"x"] * 3


def test_a_forked_child_opens_connections_of_its_own(
    driver: Driver, server: ScriptedServer
) -> None:
    driver.send(post("/echo", b"parent"))
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = driver.in_another_world(post("/echo", b"child")).body == b"child"
        finally:
            os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert driver.send(post("/echo", b"again")).body == b"again"
    assert server.connects == 2


def test_many_threads_share_one_transport(http_server: ScriptedServer) -> None:
    driver = open_driver("sync-lean", http_server.url, max_connections=8)
    with ThreadPoolExecutor(32) as threads:
        bodies = threads.map(
            lambda n: bytes(driver.send(post("/echo", b"%d" % n)).body), range(500)
        )
        assert list(bodies) == [b"%d" % n for n in range(500)]
    driver.close()
    assert http_server.connects <= 8
