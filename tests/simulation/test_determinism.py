"""Same seed, same trace, in whatever process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tierline.testing import run_seed

HASHES = "from tierline.testing import run_seed\nfor s in range(12): print(run_seed(s).trace_hash)"


def hashes_in_a_process(hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HASHES],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def test_one_seed_gives_one_trace_in_every_process() -> None:
    here = [run_seed(seed).trace_hash for seed in range(12)]
    assert hashes_in_a_process("1") == here
    assert hashes_in_a_process("4242") == here


def test_different_seeds_give_different_traces() -> None:
    assert len({run_seed(seed).trace_hash for seed in range(20)}) == 20


@pytest.mark.parametrize("days", [1, 30, 1000])
def test_every_property_holds_however_long_ago_the_machine_began(
    days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierline.testing.client.BOOTED", days * 86_400.0)
    for seed in range(40):
        assert run_seed(seed).violations == (), seed
