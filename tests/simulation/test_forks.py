"""Workers forked from one process with a client in it do not draw the same numbers."""

from __future__ import annotations

import subprocess
import sys

FORKS = """
import os, sys
import tierline

client = tierline.Client(edge=["http://127.0.0.1:9"])
for _ in range(3):
    reading, writing = os.pipe()
    if os.fork() == 0:
        call, outgoing = client._call(
            "m", {"history": [1]}, [1], None, None, None, "sequential", None, None, None, "default"
        )
        os.write(writing, f"{outgoing.call_id} {client._dice.random()}\\n".encode())
        os._exit(0)
    os.wait()
    sys.stdout.write(os.read(reading, 100).decode())
"""


def test_forked_workers_roll_dice_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=60
    )
    drawn = done.stdout.split()
    assert len(drawn) == 6
    assert len(set(drawn)) == 6
