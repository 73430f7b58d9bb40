"""The demo's processes: every one is started here, and none outlives the demo.

Four nets, one under the other: the ``with`` block, ``atexit``, a process group of its own for each
(so that its children end with it), and, on Linux, the kernel's parent-death signal, which holds
even when the demo itself is killed with SIGKILL. Start processes from the main thread only: the
parent-death signal follows the thread that started them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READY_TIMEOUT = 90.0  # seconds a server may take to load and compile its kernels
STOP_TIMEOUT = 10.0  # seconds a server may take to drain before it is killed
STDERR = 2  # the file descriptor: stdout is for the one table
POLL = 0.1  # seconds between two looks at /readyz

# Runs before the command, in its process: dies with its parent (PR_SET_PDEATHSIG = 1), then execs.
# A wrapper and not preexec_fn: that one may deadlock in a process that has threads.
GUARD = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class FleetError(RuntimeError):
    """A process of the demo did not start, or failed. The message quotes the end of its log."""


class Fleet:
    """The processes that run now. Leaving the ``with`` block ends them all."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        atexit.register(self.end_all)

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> int:
        """Start ``command`` with its output in ``<name>.log``; returns its process id."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = _spawn(command, log, environment)
        return self._running[name].pid

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run ``command`` to its end, its output on our stderr. Raises FleetError when it fails."""
        process = self._running[name] = _spawn(command, None, None)
        try:
            code = process.wait()
        finally:
            self.kill(name)
        if code != 0:
            raise FleetError(f"{name} ended with exit code {code}: {' '.join(command)}")

    def wait_ready(self, name: str, url: str, timeout: float = READY_TIMEOUT) -> None:
        """Wait until ``url`` answers 200. Raises FleetError when it ends first or is too slow."""
        give_up = time.monotonic() + timeout
        while not answers(url):
            if self._running[name].poll() is not None:
                raise FleetError(f"{name} ended while it was starting; {self._tail(name)}")
            if time.monotonic() > give_up:
                raise FleetError(f"{name} was not ready after {timeout:.0f} s; {self._tail(name)}")
            time.sleep(POLL)

    def kill(self, name: str) -> None:
        """SIGKILL the process and its children, as a crash would. Killing twice is fine."""
        process = self._running.pop(name, None)
        if process is not None:
            _signal_group(process, signal.SIGKILL)
            process.wait()

    def end_all(self) -> None:
        """Ask every process to drain, wait a while, then kill what is left."""
        for process in self._running.values():
            if process.poll() is None:
                _signal_group(process, signal.SIGTERM)
        give_up = time.monotonic() + STOP_TIMEOUT
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, give_up - time.monotonic()))
        for name in list(self._running):
            self.kill(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end_all()
        atexit.unregister(self.end_all)

    def _tail(self, name: str, lines: int = 15) -> str:
        path = self.logs / f"{name}.log"
        text = path.read_text(errors="replace").splitlines()[-lines:]
        return f"the end of {path}:\n" + "\n".join(text)


def tierline_command(*arguments: str) -> list[str]:
    """The command line of one ``tierline`` subcommand under this very Python."""
    return [sys.executable, "-m", "tierline.cli", *arguments]


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def answers(url: str) -> bool:
    """Whether a GET of ``url`` is answered with 200 within a second."""
    try:
        with urllib.request.urlopen(url, timeout=1.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _spawn(
    command: Sequence[str], output: IO[bytes] | None, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-I", "-S", "-c", GUARD, str(os.getpid()), *command]
    return subprocess.Popen(
        guarded,
        stdin=subprocess.DEVNULL,
        stdout=output or STDERR,
        stderr=subprocess.STDOUT if output else None,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # own group: Ctrl-C reaches the demo, which ends it in order
    )


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group outlives its leader while any child of it lives, so it is signalled even then.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
