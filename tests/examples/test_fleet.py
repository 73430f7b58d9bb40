"""Whatever ends the demo, its processes end too."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import Fleet, FleetError, free_ports

SHOP_DEMO = Path(__file__).resolve().parents[2] / "examples" / "shop_demo"
PATIENCE = 20.0  # seconds for a process to end on a busy machine
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
# A stand-in for the demo: starts a process that has a child of its own, then waits for its end.
OWNER = """
import signal, sys, time
from pathlib import Path
from fleet import Fleet
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit it ignored
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with Fleet(Path(sys.argv[1])) as fleet:
    print(fleet.start("one", [sys.executable, "-S", "-c", "import time; time.sleep(600)"]))
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
        env={**os.environ, "PYTHONPATH": str(SHOP_DEMO)},
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
    with Fleet(tmp_path) as fleet:
        fleet.start("parent", [sys.executable, "-S", "-c", PARENT])
        with pytest.raises(FleetError, match="was not ready"):
            # Nobody listens there: this waits long enough for the child's id to be in the log.
            fleet.wait_ready("parent", f"http://127.0.0.1:{free_ports(1)[0]}/readyz", timeout=1.0)
        child = int((tmp_path / "parent.log").read_text())
    assert ended(child)


def test_an_error_inside_the_block_ends_the_processes(tmp_path: Path) -> None:
    started: list[int] = []

    def fail_with_a_process_running() -> None:
        with Fleet(tmp_path) as fleet:
            started.append(fleet.start("one", SLEEPER))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_process_running()
    assert ended(started[0])


def test_a_killed_process_is_gone_when_kill_returns(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        pid = fleet.start("one", SLEEPER)
        fleet.kill("one")
        fleet.kill("one")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    failing = [sys.executable, "-S", "-c", "raise SystemExit('no such bundle')"]
    with Fleet(tmp_path) as fleet:
        fleet.start("edge-1", failing)
        with pytest.raises(FleetError, match=r"edge-1 ended while it was starting(.|\n)*no such"):
            fleet.wait_ready("edge-1", f"http://127.0.0.1:{free_ports(1)[0]}/readyz")


def test_a_failing_step_says_its_exit_code(tmp_path: Path) -> None:
    with (
        Fleet(tmp_path) as fleet,
        pytest.raises(FleetError, match="training ended with exit code 4"),
    ):
        fleet.run("training", [sys.executable, "-S", "-c", "raise SystemExit(4)"])
