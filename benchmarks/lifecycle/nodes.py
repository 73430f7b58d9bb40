"""Edge nodes as real processes, an operator's requests to them, and callers who never pause."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bundles import CANDIDATES, MODEL, QUERY
from numpy.typing import NDArray

import tierline

PATIENCE = 120.0  # seconds for a node to start, to load or to leave
DEADLINE = 10.0  # seconds for a call: a failed one is one that a node failed, not a slow machine


@dataclass
class Node:
    """One `tierline edge serve` process; ``start`` it again after it has left."""

    arguments: Sequence[str]
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it says it is ready."""
        command = [sys.executable, "-m", "tierline.cli", "edge", "serve", *self.arguments]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--threads", "1", "--allow-unsigned"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # refused loads are logged, as they should be
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("ready on"):
            raise RuntimeError(f"the node did not start: {line or self.process.wait()}")

    def leave(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    @property
    def resident(self) -> int:
        """Bytes of memory the process holds now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def change(self, what: str, key: str, document: Mapping[str, object] | None = None) -> int:
        """An admin's request: ``load``, ``rollback``, …; the HTTP status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            path = f"/v2/repository/models/{MODEL}/{what}"
            body = json.dumps(document or {}).encode()
            connection.request("POST", path, body, {"Authorization": f"Bearer {key}"})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


@contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """The nodes, started; killed at the end, whatever happens."""
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            node.kill()


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Tally:
    """How calls ended. ``torn`` answers name one bundle and hold another's scores."""

    answered: int = 0
    failed: int = 0
    retried: int = 0
    torn: int = 0
    first_failure: str = ""
    seconds: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the calls was answered."""
        return float(np.quantile(self.seconds, share)) * 1000 if self.seconds else 0.0


class Callers:
    """Threads that call without a pause; each answer is checked against its bundle's scores."""

    def __init__(
        self,
        urls: Sequence[str],
        expected: Mapping[str, NDArray[np.float32]],
        *,
        callers: int,
        key: str | None = None,
    ) -> None:
        self.tally = Tally()
        self._expected = expected
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._client = tierline.Client(edge=list(urls), api_key=key, deadline=DEADLINE)
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        self.wait_for(len(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def wait_for(self, more: int) -> None:
        """Let so many more calls end."""
        until = time.monotonic() + PATIENCE
        goal = self.tally.answered + self.tally.failed + more
        while self.tally.answered + self.tally.failed < goal:
            if time.monotonic() > until:
                raise RuntimeError("the callers have come to a halt")
            time.sleep(0.001)

    def _call(self) -> None:
        while not self._is_over.is_set():
            begun = time.monotonic()
            try:
                answer = self._client.score(MODEL, query={"history": QUERY}, candidates=CANDIDATES)
            except tierline.TierlineError as error:
                self._count(error=f"{type(error).__name__}: {error}")
                continue
            same = np.array_equal(answer.scores, self._expected.get(answer.bundle, np.zeros(0)))
            self._count(
                seconds=time.monotonic() - begun,
                is_torn=not same,
                is_retried=len(answer.attempts) > 1,
            )

    def _count(
        self,
        *,
        seconds: float = 0.0,
        is_torn: bool = False,
        is_retried: bool = False,
        error: str = "",
    ) -> None:
        with self._lock:
            if error:
                self.tally.failed += 1
                self.tally.first_failure = self.tally.first_failure or error
                return
            self.tally.answered += 1
            self.tally.torn += is_torn
            self.tally.retried += is_retried
            self.tally.seconds.append(seconds)
