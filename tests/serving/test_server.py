"""A server in a process of its own: it says where it is, drains when told, and leaves cleanly."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_scorer import FakeScorer, a_request

from tierline import ConfigurationError
from tierline.wire import decode_error, decode_reply, encode_request
from tierline_serving.front.listeners import address, listen
from tierline_serving.server import Server
from tierline_serving.settings import ServerSettings

SCRIPT = Path(__file__).with_name("slow_server.py")
PATIENCE = 30.0  # seconds after which a process that hangs is killed and the test fails
LAME_DUCK = 0.4


@contextmanager
def served(mode: str = "", **settings: object) -> Iterator[subprocess.Popen[str]]:
    """A server process; killed when the test is over, or takes too long."""
    options = {"port": 0, "lame_duck": LAME_DUCK, **settings}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(options), mode], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def port_of(line: str) -> int:
    found = re.fullmatch(
        r"ready on http://127\.0\.0\.1:(\d+) \(model ranker, bundle 1@0123456789ab\)", line
    )
    assert found, line
    return int(found[1])


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@dataclass
class Load:
    """Callers that ask until the endpoint refuses connections; they do what ``close`` asks."""

    port: int
    answered: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, callers: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._call, args=(i,)) for i in range(callers)]
        for thread in threads:
            thread.start()
        return threads

    def _call(self, caller: int) -> None:
        body = b"".join(encode_request(a_request(1000 + caller, 7)))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        is_refused = False
        while not is_refused:
            try:
                connection.request("POST", "/v1/score", body)
                response = connection.getresponse()
                reply = decode_reply(response.read())
                assert (response.status, reply.scores[0]) == (200, 1000 + caller)
                with self._lock:
                    self.answered += 1
            except ConnectionRefusedError:
                is_refused = True
            except Exception as error:
                with self._lock:
                    self.failures.append((time.monotonic(), repr(error)))
                connection.close()
        connection.close()

    def wait_for(self, answers: int) -> None:
        for _ in range(int(PATIENCE / 0.01)):
            if self.answered >= answers:
                return
            time.sleep(0.01)
        raise AssertionError(f"only {self.answered} answers; failures: {self.failures}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_under_load_it_answers_all_it_accepted_and_exits_0(
    number: signal.Signals,
) -> None:
    with served() as process:
        port = port_of(told(process))
        assert get(port, "/readyz") == 200
        load = Load(port)
        callers = load.start(6)
        load.wait_for(100)
        process.send_signal(number)
        signalled_at = time.monotonic()
        while get(port, "/readyz") != 503:
            assert time.monotonic() < signalled_at + LAME_DUCK, "still ready, though told to stop"
        for caller in callers:
            caller.join()
        scored = int(told(process).removeprefix("scored "))
        assert process.wait() == 0
        # A connection the kernel had queued when the listener closed is refused late: by a reset.
        early = [why for at, why in load.failures if at < signalled_at + 0.9 * LAME_DUCK]
        assert early == []
        assert load.answered == scored, load.failures


def started_request(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/v1/score", b"".join(encode_request(a_request(1))))
    return connection


def wait_until_in_flight(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    for _ in range(1000):
        connection.request("GET", "/metrics")
        if b"tierline_inflight_requests 1.0" in connection.getresponse().read():
            connection.close()
            return
    raise AssertionError("the request never began")


@pytest.mark.slow
def test_what_cannot_be_finished_in_time_is_answered_503_and_the_exit_code_says_so() -> None:
    with served("stuck", lame_duck=0.0, drain=0.2) as process:
        port = port_of(told(process))
        connection = started_request(port)
        wait_until_in_flight(port)
        process.terminate()
        response = connection.getresponse()
        assert (response.status, response.headers["connection"]) == (503, "close")
        assert decode_error(response.read()).code == "unavailable"
        connection.close()
        assert process.wait() == 1


@pytest.mark.slow
def test_a_second_signal_ends_the_drain_at_once() -> None:
    with served("stuck", lame_duck=20.0, drain=20.0) as process:
        port = port_of(told(process))
        connection = started_request(port)
        wait_until_in_flight(port)
        process.terminate()
        while get(port, "/readyz") != 503:
            pass
        process.terminate()
        assert connection.getresponse().status == 503
        connection.close()
        assert process.wait(timeout=5) == 1


@pytest.mark.slow
def test_a_model_that_fails_its_warm_up_is_never_served() -> None:
    with served("broken") as process:
        assert told(process).startswith("not started: the warm-up request failed")
        assert process.wait() == 1


@pytest.mark.slow
def test_a_unix_socket_serves_like_a_port_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "tier.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))  # left behind by a process that was killed
    with served(port=None, unix_socket=str(path), lame_duck=0.0) as process:
        assert told(process).startswith(f"ready on unix://{path} (model ranker")
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("POST", "/v1/score", b"".join(encode_request(a_request(4))))
        assert decode_reply(connection.getresponse().read()).scores.tolist() == [4.0]
        connection.close()
        process.terminate()
        assert process.wait() == 0
    assert not path.exists()


def test_a_port_in_use_is_named() -> None:
    (first,) = listen(ServerSettings(port=0))
    port = first.getsockname()[1]
    try:
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen(ServerSettings(port=port))
        assert address(first) == f"http://127.0.0.1:{port}"
    finally:
        first.close()


def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tier.sock"
    (first,) = listen(ServerSettings(port=None, unix_socket=path))
    try:
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            listen(ServerSettings(port=None, unix_socket=path))
        assert path.exists()
    finally:
        first.close()


def test_two_scorers_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two scorers serve the model 'ranker'"):
        Server([FakeScorer(), FakeScorer()], ServerSettings(), say=print)


def test_a_server_without_a_scorer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one scorer"):
        Server([], ServerSettings(), say=print)


def test_a_warm_up_for_a_model_not_served_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not served: other"):
        Server([FakeScorer()], ServerSettings(), warm_up={"other": a_request(1)}, say=print)
