"""Whatever ends a drill or a demo, its processes end too; who starts one decides nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tierline_drills import priority
from tierline_drills.errors import DrillError
from tierline_drills.processes import Processes, free_ports

PATIENCE = 20.0  # seconds for a process to end on a busy machine
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
# A stand-in for the demo: starts a process that has a child of its own, then waits for its end.
OWNER = """
import signal, sys, time
from pathlib import Path
from tierline_drills.processes import Processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit it ignored
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with Processes(Path(sys.argv[1])) as processes:
    print(processes.start("one", [sys.executable, "-S", "-c", "import time; time.sleep(600)"]))
    sys.stdout.flush()
    while True:  # pause() would miss a signal that comes just before it
        time.sleep(0.05)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""

# Says how it was started, and serves with a thread of its own.
SERVER = """
import http.server, os, sys, threading
print("nice", os.getpriority(os.PRIO_PROCESS, 0), flush=True)
address = ("127.0.0.1", int(sys.argv[1]))
server = http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever).start()
"""


def ended(pid: int) -> bool:
    """Wait for a process that need not be our child to end; whether it did in time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE)[0])
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_no_process_outlives_its_owner(tmp_path: Path, number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(number)
    assert ended(pid)


@pytest.mark.slow
def test_leaving_the_block_ends_children_of_the_processes_too(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("parent", [sys.executable, "-S", "-c", PARENT])
        with pytest.raises(DrillError, match="was not ready"):
            # Nobody listens there: this waits long enough for the child's id to be in the log.
            processes.wait_ready(
                "parent", f"http://127.0.0.1:{free_ports(1)[0]}/readyz", timeout=1.0
            )
        child = int((tmp_path / "parent.log").read_text())
    assert ended(child)


def test_an_error_inside_the_block_ends_the_processes(tmp_path: Path) -> None:
    started: list[int] = []

    def fail_with_a_process_running() -> None:
        with Processes(tmp_path) as processes:
            started.append(processes.start("one", SLEEPER))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_process_running()
    assert ended(started[0])


def test_a_killed_process_is_gone_when_kill_returns(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        pid = processes.start("one", SLEEPER)
        processes.kill("one")
        processes.kill("one")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    failing = [sys.executable, "-S", "-c", "raise SystemExit('no such bundle')"]
    with Processes(tmp_path) as processes:
        processes.start("edge-1", failing)
        with pytest.raises(DrillError, match=r"edge-1 ended while it was starting(.|\n)*no such"):
            processes.wait_ready("edge-1", f"http://127.0.0.1:{free_ports(1)[0]}/readyz")


def test_a_failing_step_says_its_exit_code(tmp_path: Path) -> None:
    with (
        Processes(tmp_path) as processes,
        pytest.raises(DrillError, match="training ended with exit code 4"),
    ):
        processes.show("training", [sys.executable, "-S", "-c", "raise SystemExit(4)"])


@pytest.mark.slow
def test_a_process_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    # The kernel's parent-death signal follows the starting thread: a supervisor's short-lived
    # thread once killed every node that it had brought back.
    with Processes(tmp_path) as processes:
        (port,) = free_ports(1)

        def bring_up() -> None:
            command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
            processes.start("server", command)
            processes.wait_ready("server", f"http://127.0.0.1:{port}/")

        thread = threading.Thread(target=bring_up)
        thread.start()
        thread.join()
        assert processes.finish("server", 5.0) == -signal.SIGTERM


def test_a_command_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    failing = [sys.executable, "-S", "-c", "import sys; sys.exit('no disk')"]
    with Processes(tmp_path) as processes, pytest.raises(DrillError, match="no disk"):
        processes.run("failing", failing, timeout=10.0)


@pytest.mark.skipif(not priority.can_lift(), reason="no right to raise a priority again")
def test_a_server_started_beside_others_gives_way_until_it_is_ready(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with Processes(tmp_path) as processes:
        command = [sys.executable, "-c", SERVER, str(port)]
        process = processes.start("server", command, nice=priority.LOW)
        processes.wait_ready("server", f"http://127.0.0.1:{port}/")
        threads = [int(each.name) for each in Path(f"/proc/{process}/task").iterdir()]
        after = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
        group = session_priority(process)
    assert processes.tail("server").splitlines()[1] == f"nice {priority.LOW}"
    assert after == {0}
    assert group in ("", "0")


def session_priority(process: int) -> str:
    """The nice value of a process's session; "" where the kernel knows none."""
    place = Path(f"/proc/{process}/autogroup")
    return place.read_text().split()[-1] if place.exists() else ""
