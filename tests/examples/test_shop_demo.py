"""The demo's own machinery, whole, on fake tiers: every call answered, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parent / "demo_without_models.py"
RUN = DEMO.parents[2] / "examples" / "shop_demo" / "run.py"
TIMEOUT = 60.0  # seconds for one miniature demo on a busy machine

pytestmark = pytest.mark.slow


def command(work: Path, *arguments: str) -> list[str]:
    fast = ("--calls", "200", "--rate", "100")
    return [sys.executable, str(DEMO), "--work", str(work), *fast, *arguments]


def descendants(work: Path) -> set[int]:
    """Every process of the demo on ``work``: all of them inherit its mark in the environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended while we looked, or is not ours
            if f"DEMO_OF={work}".encode() in environment:
                found.add(int(entry.name))
    return found


def test_every_call_is_answered_whatever_breaks_and_the_table_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--json", "-"), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    tiered = figures["tiered"]
    assert (tiered["calls"], tiered["failed"]) == (200, 0)
    assert tiered["callers"] == {"threads": 100, "asyncio": 100}
    assert tiered["escalations"]["sent"] >= tiered["escalations"]["answered by cloud"] > 0
    assert tiered["degraded"] == sum(tiered["degraded by reason"].values()) > 0
    assert figures["cloud only"]["tiers"]["cloud"]["share"] == 1.0
    labels = [event["event"] for event in figures["timeline"]]
    faults = [label for label in labels if "again" not in label]
    assert faults == ["cloud cut", "cloud restored", "edge-1 killed", "edge-1 restarted"]
    assert "failed calls" in done.stdout
    assert list(tmp_path.rglob("timeline.png"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_demo_ends_everything_it_started(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    marked = {**os.environ, "DEMO_OF": str(tmp_path)}
    demo = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True, env=marked)
    seen: set[int] = set()
    with demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "calls through both tiers" in line:
                seen = descendants(tmp_path)
                demo.send_signal(number)
        assert demo.wait(TIMEOUT) == code
    assert len(seen) == 4  # the demo, two edge nodes, the cloud
    assert descendants(tmp_path) == set()


def test_help_shows_an_example() -> None:
    shown = subprocess.run(
        [sys.executable, str(DEMO), "--help"], capture_output=True, text=True, check=True
    )
    assert "example:" in shown.stdout


@pytest.mark.nightly
def test_the_real_demo_trains_serves_and_fails_no_call_within_six_minutes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "--work", str(tmp_path), "--json", "-"],
        capture_output=True,
        text=True,
        timeout=6 * 60,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["tiered"]["tiers"]["cloud"]["answers"] > 0
    assert figures["cloud only"]["ndcg@10"] > figures["edge only"]["ndcg@10"]
