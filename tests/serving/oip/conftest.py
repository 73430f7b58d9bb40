"""The stock Triton clients, each in a process of its own, started once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import Served

DRIVER = Path(__file__).with_name("triton_driver.py")

Client = Callable[..., dict[str, Any]]  # Any: JSON


@contextmanager
def driven(kind: str, address: str) -> Iterator[Client]:
    """``client(call, *args, **rest)``: one call of the stock client, its outcome as JSON."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), kind, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines, answers = process.stdin, process.stdout

    def call(name: str, *args: object, **rest: object) -> dict[str, Any]:
        lines.write(json.dumps({"call": name, "args": args, **rest}) + "\n")
        lines.flush()
        answer: dict[str, Any] = json.loads(answers.readline())
        return answer

    try:
        yield call
    finally:
        with answers, suppress(BrokenPipeError):
            lines.close()  # it ends with its input
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def _clients(node: Served) -> Iterator[dict[str, Client]]:
    with driven("sync", node.address) as sync, driven("aio", node.address) as aio:
        yield {"sync": sync, "aio": aio}


@pytest.fixture(params=["sync", "aio"])
def client(request: pytest.FixtureRequest, _clients: dict[str, Client]) -> Client:
    """Either stock client, against the server without access control."""
    return _clients[request.param]
