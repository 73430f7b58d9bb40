"""A process that is lied to: its wall clock steps, its disk fails, names move; nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tierline_drills import lies

ASKING = """
import datetime, json, os, socket, sys, tempfile, time
from datetime import UTC
def resolved(name):
    try:
        return socket.getaddrinfo(name, 80)[0][4][0]
    except socket.gaierror as error:
        return "gaierror"
def flushed():
    with tempfile.TemporaryFile() as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            return error.strerror
    return "flushed"
json.dump({
    "time": time.time(), "ns": time.time_ns() / 1e9, "now": datetime.datetime.now(UTC).timestamp(),
    "monotonic": time.monotonic(), "disk": flushed(),
    "known": resolved("edge-1.drill"), "unknown": resolved("edge-2.drill"),
    "other": resolved("127.0.0.1"), "arguments": sys.argv[1:],
}, sys.stdout)
"""


@pytest.mark.slow
def test_a_process_believes_what_its_file_says(tmp_path: Path) -> None:
    import time

    (tmp_path / "asking.py").write_text(ASKING)
    place = tmp_path / "lies.json"
    lies.tell(place, clock=300.0, fsync=True, names={"edge-1.drill": "127.0.0.2"})
    line = lies.command(place, [sys.executable, "-m", "asking", "--port", "1"])
    began = time.time()
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for clock in ("time", "ns", "now"):
        assert 299.0 < found[clock] - began < 360.0
    assert abs(found["monotonic"] - time.monotonic()) < 60.0
    assert found["disk"] == "Input/output error"
    assert (found["known"], found["unknown"]) == ("127.0.0.2", "gaierror")
    assert (found["other"], found["arguments"]) == ("127.0.0.1", ["--port", "1"])


def test_lies_add_up_and_can_be_taken_back(tmp_path: Path) -> None:
    place = tmp_path / "lies.json"
    lies.tell(place, clock=300.0, fsync=True)
    lies.tell(place, clock=None)
    assert json.loads(place.read_text()) == {"fsync": True}
