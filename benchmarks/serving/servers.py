"""Starts what is measured, each a process pinned to one core, and says how to ask it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import load
from peers import PEERS
from workloads import Workload

from tierline._transports.base import WireRequest
from tierline._transports.http1 import request_head
from tierline.deadline import DEADLINE_HEADER
from tierline.wire.headers import (
    ATTEMPT_HEADER,
    CONTENT_TYPE,
    CONTENT_TYPE_HEADER,
    REQUEST_ID_HEADER,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMPILED = ROOT / "build" / "compiled"
DEADLINE_MS = 2000.0  # what every call of ours carries unless said otherwise
TERMINATE_WITHIN = 20.0  # seconds before a process that will not end is killed
OURS, RAW, FASTAPI = "tierline", "raw uvloop", "fastapi"
REFUSING = "refusing"  # everybody, at once


def own_message(frame: bytes, deadline_ms: float) -> bytes:
    """A call as our own client writes it."""
    headers = (
        (DEADLINE_HEADER, f"{deadline_ms:.3f}"),
        (ATTEMPT_HEADER, "1"),
        (REQUEST_ID_HEADER, "9a1a211a4cbc3ffb"),
    )
    standing = f"host: 127.0.0.1\r\n{CONTENT_TYPE_HEADER}: {CONTENT_TYPE}\r\n"
    return request_head(WireRequest("POST", "/v1/score", headers, (frame,)), standing) + frame


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers one workload."""

    kind: str
    workload: Workload
    port: int
    process: subprocess.Popen[str]

    def message(self, *, deadline_ms: float = DEADLINE_MS, candidates: int = 100) -> bytes:
        """One request's bytes."""
        if self.kind == OURS:
            return own_message(self.workload.frame(candidates), deadline_ms)
        if self.kind in PEERS:
            return PEERS[self.kind].message(self.workload)
        return load.post("/score", self.workload.raw(candidates))

    @property
    def resident(self) -> int:
        """Resident memory of the process, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    @property
    def cpu(self) -> float:
        """CPU seconds the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compile_ours() -> None:
    """Have ``COMPILED`` hold this checkout compiled; ends the run when that cannot be done."""
    build = [sys.executable, "-m", "tierline_serving.compiling"]
    done = subprocess.run(
        [*build, "--root", str(ROOT), "--out", str(COMPILED)], stdout=sys.stderr, check=False
    )
    if done.returncode != 0:
        raise SystemExit("ours is not compiled; --interpreted measures the plain sources.")


def environment(kind: str, *, compiled: bool) -> dict[str, str]:
    """What a server's process finds in its environment; ``compiled`` is about ours alone."""
    if kind != OURS:
        return dict(os.environ)
    return os.environ | {"PYTHONPATH": str(COMPILED) if compiled else ""}


def command(kind: str, workload: Workload) -> list[str]:
    """What starts a server; it prints a line with its port when it is ready."""
    if kind == OURS:
        serve = ["-m", "tierline.cli", "edge", "serve", str(workload.bundle)]
        return [sys.executable, *serve, "--allow-unsigned", "--port", "0", "--lame-duck", "0"]
    if kind in PEERS:
        return PEERS[kind].command(workload)
    if kind == REFUSING:
        return [sys.executable, str(HERE / "raw_server.py"), "refuse", ""]
    script = {RAW: "raw_server.py", FASTAPI: "fastapi_server.py", "bare": "bare.py"}[kind]
    return [sys.executable, str(HERE / script), workload.name, str(workload.onnx)]


@contextmanager
def running(
    kind: str, workload: Workload, core: int, *, compiled: bool = False
) -> Iterator[Server]:
    """A server on one core until the block ends; ``compiled`` needs ``compile_ours`` before."""
    pinned = ["taskset", "-c", str(core), *command(kind, workload)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # A session of its own: products start processes that would outlive them.
    with subprocess.Popen(  # type: ignore[call-overload]
        pinned, text=True, start_new_session=True, env=environment(kind, compiled=compiled), **pipes
    ) as process:
        try:
            port = _port(process.stdout)
            if kind == OURS:
                _require_form(process.pid, compiled=compiled)
            if kind in PEERS:
                _until_listening(port)
            yield Server(kind, workload, port, process)
        finally:
            process.terminate()
            try:
                process.wait(TERMINATE_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
            with contextlib.suppress(ProcessLookupError):  # nobody is left, as it should be
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """All of a server's processes are stopped until the block ends."""
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)


def _require_form(pid: int, *, compiled: bool) -> None:
    """A figure must not be of the other form: what the process has loaded tells."""
    if ("tierline__mypyc" in Path(f"/proc/{pid}/maps").read_text()) is not compiled:
        raise SystemExit(f"ours runs {'interpreted' if compiled else 'compiled'}, unlike asked")


def _until_listening(port: int) -> None:
    """Products say where they will listen before they do."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("a product did not listen within a minute")


def _port(lines: Sequence[str]) -> int:
    for line in lines:
        if found := re.search(r"ready on \S+:(\d+)|^(?:ready )?(\d+)$", line):
            return int(found[1] or found[2])
    raise SystemExit("a server ended before it was ready")
