"""Two workers on one port: both answer, count as one, change as one, and are replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_scorer import a_request
from processes import PATIENCE, Served
from prometheus_client.parser import text_string_to_metric_families

from tierline.wire import decode_reply, encode_request
from tierline_serving.access.keyring import create_key
from tierline_serving.access.scopes import Scope

SERVER = Path(__file__).with_name("family_server.py")
LOOKS = 5000  # requests after which what was waited for does not come


@dataclass
class Pair:
    """A supervisor and its two workers."""

    served: Served
    said: list[str] = field(default_factory=list)
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def model(self) -> tuple[int, str]:
        """The process that answers now, and its bundle."""
        info = self.served.ask("GET", "/v1/models/ranker", b"", self.headers).json
        assert isinstance(info, dict)
        return info["details"]["pid"], info["bundle"]

    def pids(self, *, without: int = 0) -> set[int]:
        """The processes of both workers, once each has answered."""
        found: set[int] = set()
        for _ in range(LOOKS):
            found.add(self.model()[0])
            if len(found - {without}) == 2:
                return found - {without}
        raise AssertionError(f"only {found} answered: {self.said}")

    def bundles(self) -> set[str]:
        """What the workers serve, asked often enough to meet both."""
        pids = self.pids()
        seen: dict[int, str] = {}
        while set(seen) != pids:
            pid, bundle = self.model()
            seen[pid] = bundle
        return set(seen.values())

    def metric(self, name: str) -> float:
        text = self.served.ask("GET", "/metrics", b"", self.headers).body.decode()
        families = text_string_to_metric_families(text)
        return sum(s.value for each in families for s in each.samples if s.name == name)

    def change(self, what: str) -> tuple[int, str]:
        path = f"/v2/repository/models/ranker/{what}"
        answered = self.served.ask("POST", path, b"", self.headers)
        return answered.status, answered.body.decode()


@contextmanager
def pair(folder: Path, **settings: object) -> Iterator[Pair]:
    options = json.dumps({"port": 0, "lame_duck": 0.2, **settings})
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(folder), options], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"ready on http://127\.0\.0\.1:(\d+) .*, 2 workers$", line)
        assert found, line
        made = Pair(Served(int(found[1]), folder, process))
        listener = threading.Thread(target=lambda: made.said.extend(iter(read_line, "")))
        read_line = process.stdout.readline
        listener.start()
        yield made
        process.terminate()
        assert process.wait(PATIENCE) == 0
        listener.join()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("family")
    (folder / "version").write_text("2")
    _, key = create_key(folder / "keys.json", frozenset(Scope))
    with pair(folder, keys=str(folder / "keys.json")) as made:
        made.key = key
        yield made


def score(workers: Pair, count: int) -> None:
    body = b"".join(encode_request(a_request(7)))
    for _ in range(count):
        answered = workers.served.ask("POST", "/v1/score", body, workers.headers)
        assert decode_reply(answered.body).scores.tolist() == [7.0]


@pytest.mark.slow
def test_both_workers_answer_on_one_port_and_their_metrics_add_up(workers: Pair) -> None:
    assert len(workers.pids()) == 2
    score(workers, 40)
    for _ in range(6):  # whichever answers
        assert workers.metric("tierline_requests_total") == 40
    assert workers.metric("tierline_ready") == 1


@pytest.mark.slow
def test_a_change_is_made_in_every_worker_or_in_none(workers: Pair) -> None:
    assert workers.change("load")[0] == 200
    assert workers.bundles() == {"2@0123456789ab"}
    (workers.served.folder / "version").write_text("3")
    for pid in workers.pids():
        marker = workers.served.folder / str(pid)
        marker.touch()
        status, told = workers.change("load")
        assert (status, "this worker will not have it" in told) == (500, True)
        assert workers.bundles() == {"2@0123456789ab"}
        marker.unlink()
    assert workers.change("rollback")[0] == 200
    assert workers.bundles() == {"1@0123456789ab"}


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(workers: Pair) -> None:
    score(workers, 20)
    before = workers.metric("tierline_requests_total")
    victim = min(workers.pids())
    os.kill(victim, signal.SIGKILL)
    survivors = workers.pids(without=victim)
    assert victim not in survivors
    assert any("died of SIGKILL" in line for line in workers.said)
    assert workers.metric("tierline_worker_deaths_total") == 1
    # The supervisor looks once a second: what came since is lost, the rest is not.
    assert 0 < workers.metric("tierline_requests_total") <= before
    score(workers, 5)


@pytest.mark.nightly
def test_a_family_that_cannot_start_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "stillborn").touch()
    command = [sys.executable, str(SERVER), str(tmp_path), json.dumps({"port": 0})]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert b"ready" not in done.stdout
