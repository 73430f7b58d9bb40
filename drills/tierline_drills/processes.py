"""Processes of a drill, or of a demo: every one is started here, and none outlives its owner.

Four nets, one under the other: ``close``, ``atexit``, a process group of its own for each (so that
its children end with it), and, on Linux, the kernel's parent-death signal, which holds even when
the owner itself is killed with SIGKILL. That signal is sent when the *thread* that started a
process ends, so one thread, which lives as long as the processes, starts them all.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tierline_drills import priority
from tierline_drills.errors import DrillError

READY_TIMEOUT = 120.0  # seconds a server may take to load and compile its kernels
STOP_TIMEOUT = 10.0  # seconds a process may take to leave before it is killed
POLL = 0.05
STDERR = 2  # the file descriptor: stdout is for results

# Runs before the command, in its process: dies with its parent (PR_SET_PDEATHSIG = 1), then execs.
# A wrapper and not preexec_fn: that one may deadlock in a process that has threads.
GUARD = f"""
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
{priority.LOWER}
os.execv(sys.argv[3], sys.argv[3:])
"""


class Processes:
    """What runs now, by name. Leaving the ``with`` block ends it all."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lowered: set[str] = set()
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
        atexit.register(self.close)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        nice: int = 0,
    ) -> int:
        """Start ``command`` with its output in ``<name>.log``; returns its process id. From any
        thread. With ``nice`` it has a low priority until ``wait_ready`` finds it ready."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._starter.submit(self._spawn, name, command, environment, log, nice).result()
        if nice:
            self._lowered.add(name)
        return self._running[name].pid

    def show(self, name: str, command: Sequence[str]) -> None:
        """Run ``command`` to its end with its output on our stderr, as for a step whose progress is
        watched. Raises DrillError when it fails."""
        self._starter.submit(self._spawn, name, command, None, None).result()
        try:
            code = self._running[name].wait()
        finally:
            self.kill(name)
        if code != 0:
            raise DrillError(f"{name} ended with exit code {code}: {' '.join(command)}")

    def _spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        output: IO[bytes] | None,
        nice: int = 0,
    ) -> None:
        own, low = str(os.getpid()), str(nice)
        guarded = [sys.executable, "-I", "-S", "-c", GUARD, own, low, *command]
        self._running[name] = subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=output or STDERR,
            stderr=subprocess.STDOUT if output else None,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # own group: Ctrl-C reaches the owner, which ends it in order
        )

    def is_alive(self, name: str) -> bool:
        """Whether it runs (or stands still)."""
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        process = self._running.get(name)
        if process is None:
            raise DrillError(f"no process is called {name!r}; running: {sorted(self._running)}")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would. Killing twice is fine."""
        process = self._running.pop(name, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def finish(self, name: str, timeout: float) -> int | None:
        """Ask it to leave and wait; killed when it takes longer. Its exit code."""
        process = self._running.get(name)
        if process is None:
            return None
        self.signal(name, signal.SIGCONT)
        self.signal(name, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
        code = process.poll()
        self.kill(name)
        return code

    def wait_ready(self, name: str, url: str, timeout: float = READY_TIMEOUT) -> None:
        """Wait until ``url`` answers 200. Raises DrillError when it ends first or is too slow."""
        give_up = time.monotonic() + timeout
        while not answers(url):
            if not self.is_alive(name):
                raise DrillError(f"{name} ended while it was starting; {self.tail(name)}")
            if time.monotonic() > give_up:
                raise DrillError(f"{name} was not ready after {timeout:.0f} s; {self.tail(name)}")
            time.sleep(POLL)
        if name in self._lowered:
            self._lowered.discard(name)
            priority.lift(self._running[name].pid)

    def run(self, name: str, command: Sequence[str], timeout: float) -> str:
        """Run a command to its end and return what it printed. Raises DrillError."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise DrillError(f"{name} took longer than {timeout:.0f} s") from error
        (self.logs / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode != 0:
            raise DrillError(f"{name} ended with exit code {done.returncode}; {self.tail(name)}")
        return done.stdout

    def close(self) -> None:
        """Ask every process to leave, wait a while, kill what is left."""
        for name in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                self.signal(name, signal.SIGCONT)
                self.signal(name, signal.SIGTERM)
        give_up = time.monotonic() + STOP_TIMEOUT
        for process in list(self._running.values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, give_up - time.monotonic()))
        for name in list(self._running):
            self.kill(name)
        atexit.unregister(self.close)
        self._starter.shutdown(wait=False)  # what it started has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's output."""
        path = self.logs / f"{name}.log"
        text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
        return f"the end of {path.name}:\n" + "\n".join(text)


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


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether a GET of ``url`` is answered with 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
