"""A real Ray on this machine, a deployment on it, and callers who never pause."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tierline
from tierline.cli import EXIT_DONE, main
from tierline_serving.bundle import Bundle

PATIENCE = 180.0  # seconds after which what does not come is missed
LOOK_EVERY = 0.25
REGION = "eu"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports home otherwise
    # On a busy machine:
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
}


@contextmanager
def cluster() -> Iterator[Any]:  # Any: ray is not typed here
    """Ray with two CPUs, in the region ``eu``; everything it started is gone afterwards."""
    # Ray reads them when it is imported. A token of our own: else it leaves one in the home folder.
    os.environ.update(ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    context = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, labels={"ray.io/region": REGION}
    )
    session = Path(context["session_dir"]).name
    try:
        yield ray
    finally:
        ray.shutdown()
        until(lambda: not processes(session), "Ray's processes to end")


def processes(session: str) -> list[str]:
    """The command lines of a Ray session's processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended just now
        if session in line:
            found.append(line)
    return found


def until(holds: Callable[[], object], what: str) -> None:
    """Wait for something another process does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s for {what}"
        time.sleep(LOOK_EVERY)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Deployment:
    """What one test deploys, again and again, on one port."""

    port: int
    regions: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, bundle: Bundle, *more: str) -> None:
        """By the command itself; a tenth of a CPU each, so that a surge has room."""
        regions = [part for region in self.regions for part in ("--region", region)]
        arguments = [
            "cloud", "deploy", "--ray", str(bundle.path), "--allow-unsigned", "--cpus", "0.1",
            "--port", str(self.port), "--max-batch-rows", "64", *regions, *more,
        ]  # fmt: skip
        assert main(arguments) == EXIT_DONE

    def pids(self) -> set[int]:
        """The processes of the replicas that run."""
        from ray.serve.context import _get_global_client

        details = _get_global_client().get_serve_details()
        return {
            replica["pid"]
            for application in details["applications"].values()
            for deployment in application["deployments"].values()
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        }

    def kill_one(self) -> int:
        """Kill a replica's process; its id."""
        victim = min(self.pids())
        os.kill(victim, signal.SIGKILL)
        return victim


@dataclass
class Load:
    """Callers who never pause; ``failures`` are calls without an answer of the cloud tier."""

    client: tierline.Client
    bundles: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    attempts: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)
    progress: threading.Condition = field(default_factory=threading.Condition)

    @property
    def answered(self) -> int:
        return self.bundles.total()

    def call(self) -> None:
        while not self.is_over.is_set():
            try:
                answer = self.client.score("ranker", query={"history": [5, 6]}, candidates=[7, 8])
            except tierline.TierlineError as error:
                self.failures.append(repr(error))
                continue
            if answer.tier != "cloud" or len(answer.scores) != 2:
                self.failures.append(f"{answer.tier}: {answer.reason}")
            with self.progress:
                self.bundles[answer.bundle] += 1
                self.attempts += len(answer.attempts)
                self.progress.notify_all()

    def wait_for(self, more: int) -> None:
        with self.progress:
            goal = self.answered + more
            assert self.progress.wait_for(lambda: self.answered >= goal, timeout=PATIENCE)

    def say(self, what: str) -> None:
        """What a reader of the test's output wants to know."""
        print(
            f"{what}: {self.answered} calls, {self.attempts} attempts, {len(self.failures)} failed"
        )


@contextmanager
def load_on(url: str, callers: int = 3) -> Iterator[Load]:
    """Callers of the cloud tier alone; what the client would fall back to counts as a failure."""
    with tierline.Client(cloud=[url], deadline=20.0) as client:
        load = Load(client)
        threads = [threading.Thread(target=load.call) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.is_over.set()
            for thread in threads:
                thread.join()
