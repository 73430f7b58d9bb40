"""The drill's processes: who starts one does not decide how long it lives."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierline_drills.errors import DrillError
from tierline_drills.processes import Processes, free_ports


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """None of them outlives the test."""
    found = Processes(tmp_path / "logs")
    yield found
    found.close()


@pytest.mark.slow
def test_a_process_outlives_the_thread_that_asked_for_it(processes: Processes) -> None:
    # The kernel's parent-death signal follows the starting thread: a supervisor's short-lived
    # thread once killed every node that it had brought back.
    (port,) = free_ports(1)

    def bring_up() -> None:
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        processes.start("server", command)
        processes.wait_ready("server", f"http://127.0.0.1:{port}/")

    thread = threading.Thread(target=bring_up)
    thread.start()
    thread.join()
    assert processes.finish("server", 5.0) == -signal.SIGTERM


def test_a_process_that_ends_while_it_starts_is_told_with_its_last_words(
    processes: Processes,
) -> None:
    processes.start("brief", [sys.executable, "-c", "print('no such bundle')"])
    with pytest.raises(DrillError, match="no such bundle"):
        processes.wait_ready("brief", "http://127.0.0.1:9/readyz", timeout=10.0)


def test_a_command_that_fails_is_told_with_what_it_printed(processes: Processes) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no disk')"]
    with pytest.raises(DrillError, match="no disk"):
        processes.run("failing", failing, timeout=10.0)
