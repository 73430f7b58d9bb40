"""Starts server processes for tests, and asks them over plain HTTP."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SERVER = Path(__file__).with_name("protocol_server.py")
FAKE = Path(__file__).with_name("slow_server.py")
PATIENCE = 120.0  # seconds to get ready, and to answer, before a process counts as hung


@dataclass(frozen=True)
class Answered:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server process that says it is ready."""

    port: int
    folder: Path
    process: subprocess.Popen[str] = field(repr=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | object = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """One request on a connection of its own; a body that is not bytes goes as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, raw, dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, named, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: object, **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, body, named)

    @property
    def resident(self) -> int:
        """Bytes of memory the process holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024


def running(folder: Path, **settings: object) -> AbstractContextManager[Served]:
    """A protocol server; killed when the block is left."""
    return _running([str(SERVER), str(folder), _options(settings)], folder)


def running_fake(folder: Path, **settings: object) -> AbstractContextManager[Served]:
    """A server of a fake model, ready sooner; killed when the block is left."""
    return _running([str(FAKE), _options(settings)], folder)


def running_edge(folder: Path, *arguments: str) -> AbstractContextManager[Served]:
    """A real `tierline edge serve` process; killed when the block is left."""
    options = ("--port", "0", "--allow-unsigned", "--threads", "1", "--lame-duck", "0")
    command = ["-m", "tierline.cli", "edge", "serve", *arguments, *options]
    return _running(command, folder)


def _options(settings: dict[str, object]) -> str:
    return json.dumps({"port": 0, "lame_duck": 0.0, **settings})


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[Served]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"ready on https?://127\.0\.0\.1:(\d+) ", line)
        assert found, line
        watchdog.cancel()  # one server for all protocol tests lives as long as they take
        yield Served(int(found[1]), folder, process)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
