"""My own ONNX file at the edge (in this process), my own torch module in the cloud (a server)."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from my_models import FEATURES
from pack import MODEL, pack

import tierline

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 60.0  # seconds for the server to import torch and load the module
EXAMPLE = "example:\n  python examples/bring_your_own/run.py --work .demo/bring-your-own"


def main() -> int:
    """Pack, serve, and score for one user the edge is sure about and one it is not."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", help="folder for the bundles (a temporary one)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.work or stack.enter_context(tempfile.TemporaryDirectory())
        edge, cloud = pack(Path(work))
        print(f"packed {edge.name} and {cloud.name}")
        address = stack.enter_context(cloud_server(cloud))
        client = stack.enter_context(
            tierline.Client(
                edge=[f"embedded:{edge}"],
                cloud=[address],
                deadline=2.0,
                escalation=tierline.EscalationPolicy(budget=1.0),  # no limit in so small a demo
                allow_unsigned=True,
            )
        )
        for who, strength in (("a user with strong tastes", 3.0), ("a user like any other", 0.01)):
            show(who, ask(client, strength))
    return 0


def ask(client: tierline.Client, strength: float) -> tierline.Answer:
    """Score five products for a user whose taste is ``strength`` strong."""
    dice = np.random.default_rng(7)
    user = np.full(FEATURES, strength, np.float32)
    items = dice.standard_normal((5, FEATURES)).astype(np.float32)
    return client.score(MODEL, query={"user": user}, candidates={"item": items})


def show(who: str, answer: tierline.Answer) -> None:
    """Who answered, why, and the order of the candidates."""
    unsure = "" if answer.uncertainty is None else f", uncertainty {answer.uncertainty:.2f}"
    print(f"{who}: {answer.tier} answered ({answer.quality}: {answer.reason}{unsure})")
    print("   " + "  ".join(f"#{place} {score:+.3f}" for place, score in answer.top(5)))


@contextlib.contextmanager
def cloud_server(bundle: Path) -> Iterator[str]:
    """Serve the torch bundle in a process of its own; yields its address, ends it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["cloud", "serve", str(bundle), "--port", str(port), "--allow-unsigned"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tierline.cli", *serve, "--allow-module", "my_models"],
        env={**os.environ, "PYTHONPATH": str(HERE)},  # where the server finds my_models
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_ready(process, f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    give_up = time.monotonic() + START_TIMEOUT
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise SystemExit("the cloud server ended while it was starting; it said why above")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=1.0).close()
            return
        time.sleep(0.1)
    raise SystemExit(f"the cloud server was not ready after {START_TIMEOUT:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
