"""Starts the workers of one port, replaces those that die, and lets them all leave together.

The listeners are bound here and inherited: what waits in their queues outlives any worker. The
supervisor serves nothing itself and loads no model.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tierline_serving._durable import replace_file
from tierline_serving.front.listeners import listen
from tierline_serving.settings import ServerSettings
from tierline_serving.workers.family import DEPARTED, ask_metrics, worker_socket
from tierline_serving.workers.respawn import Respawn
from tierline_serving.workers.sums import add_up, counters_of

LOOK_EVERY: Final = 1.0  # seconds between looks at each worker's counters
HUNG_AFTER: Final = 30.0  # seconds without an answer, once ready, after which a worker is killed
_READY: Final = "ready on "
# Threads that come and go would otherwise leave a memory arena each, eight for every core.
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2"}


def supervise(
    settings: ServerSettings, count: int, command: Sequence[str], *, say: Callable[[str], None]
) -> int:
    """Run ``count`` workers, each started by ``command`` with its place, its family's folder and
    its listeners appended, until SIGTERM or SIGINT; returns an exit code: 0 when every worker
    answered all it had accepted. Raises ConfigurationError when it cannot listen."""
    sockets = listen(settings)
    folder = Path(tempfile.mkdtemp(prefix="tierline-"))
    try:
        supervisor = _Supervisor(count, command, folder, sockets, say)
        return asyncio.run(supervisor.run(hears_hangup=settings.keys is not None))
    finally:
        for listener in sockets:
            listener.close()
        shutil.rmtree(folder, ignore_errors=True)
        if settings.unix_socket is not None:
            settings.unix_socket.unlink(missing_ok=True)


class _Place:
    """One worker's place: the process there now, and the last it told of its counters."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.respawn = Respawn()
        self.process: asyncio.subprocess.Process | None = None
        self.ready_line: str | None = None
        self.counted = b""
        self.heard_at = 0.0


class _Supervisor:
    def __init__(
        self,
        count: int,
        command: Sequence[str],
        folder: Path,
        sockets: Sequence[socket.socket],
        say: Callable[[str], None],
    ) -> None:
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._command = list(command)
        self._folder = folder
        self._sockets = list(sockets)
        self._say = say
        self._departed = b""
        self._is_ready = False
        self._leaving = asyncio.Event()
        self._failed = False

    async def run(self, *, hears_hangup: bool) -> int:
        """The family's whole life; returns an exit code. With ``hears_hangup`` SIGHUP goes to every
        worker, to read its keys again; one without keys would end by it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        if hears_hangup:
            loop.add_signal_handler(signal.SIGHUP, self._forward, signal.SIGHUP)
        looking = asyncio.create_task(self._look())
        codes = await asyncio.gather(*(self._keep(place) for place in self._places))
        looking.cancel()
        return 1 if self._failed or any(codes) else 0

    async def _keep(self, place: _Place) -> int:
        """Keep one place filled until the family leaves; its last worker's exit code."""
        while True:
            begun = time.monotonic()
            code = await self._live(place)
            if self._leaving.is_set():
                return code
            if not self._is_ready:
                self._failed = True  # a family that cannot start says so, it does not try for ever
                self._leave()
                return code
            self._bury(place)
            lived = time.monotonic() - begun
            self._say(f"worker {place.number} {_died(code)} after {lived:.0f} s; starting another")
            wait = place.respawn.died(lived)
            try:
                async with asyncio.timeout(wait):
                    await self._leaving.wait()
                return code
            except TimeoutError:
                continue

    async def _live(self, place: _Place) -> int:
        """One worker's life; its exit code."""
        fds = [listener.fileno() for listener in self._sockets]
        process = place.process = await asyncio.create_subprocess_exec(
            *self._command,
            *("--worker", str(place.number), "--family", str(self._folder)),
            *("--listeners", ",".join(map(str, fds))),
            stdout=subprocess.PIPE,
            pass_fds=fds,
            env={**os.environ, **_ENVIRONMENT},
        )
        if self._leaving.is_set():
            process.terminate()  # the signal came while it was being started
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._hear(place, line.decode(errors="replace").rstrip("\n"))
        code = await process.wait()
        place.process, place.ready_line = None, None
        return code

    def _hear(self, place: _Place, line: str) -> None:
        if not line.startswith(_READY):
            self._say(f"worker {place.number}: {line}")
            return
        place.ready_line, place.heard_at = line, time.monotonic()
        if self._is_ready:
            self._say(f"worker {place.number} is ready")
        elif all(each.ready_line for each in self._places):
            self._is_ready = True
            self._say(f"{line}, {len(self._places)} workers")

    def _leave(self) -> None:
        """SIGTERM goes to every worker, as often as it comes."""
        self._leaving.set()
        self._forward(signal.SIGTERM)
        for listener in self._sockets:
            listener.close()  # the workers have it too: the last of them empties its queue
        self._sockets = []

    def _forward(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.process is not None and place.process.returncode is None:
                place.process.send_signal(number)

    async def _look(self) -> None:
        """Remember every worker's counters, and kill one whose loop has stood still."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.gather(*(self._look_at(place) for place in self._places))

    async def _look_at(self, place: _Place) -> None:
        process = place.process
        if process is None or place.ready_line is None:
            return
        told = await ask_metrics(worker_socket(self._folder, place.number))
        if told is not None:
            place.counted, place.heard_at = told, time.monotonic()
        elif (
            time.monotonic() - place.heard_at > HUNG_AFTER
            and process is place.process
            and not self._leaving.is_set()
        ):
            self._say(f"worker {place.number} has not answered for {HUNG_AFTER:.0f} s: killed")
            process.kill()

    def _bury(self, place: _Place) -> None:
        """Keep what a dead worker had counted: a sum that falls would look like a restart."""
        died = (
            b"# HELP tierline_worker_deaths Workers that died and were replaced.\n"
            b"# TYPE tierline_worker_deaths counter\n"
            b"tierline_worker_deaths_total 1.0\n"
        )
        self._departed = add_up([self._departed, counters_of(place.counted), died])
        place.counted = b""
        replace_file(self._folder / DEPARTED, self._departed)


def _died(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def own_command() -> list[str]:
    """The command line of this process, for starting workers like it."""
    return [sys.executable, "-m", "tierline.cli", *sys.argv[1:]]
