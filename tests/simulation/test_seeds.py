"""Scenario after scenario: every property holds whatever a seed brings, and the seeds bring all.

``TIERLINE_SEED`` and ``TIERLINE_SEEDS`` choose others; the nightly run takes ``TIERLINE_SHARD``
("2/4") of ``TIERLINE_NIGHTLY_SEEDS``.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tierline.testing import FaultKind, check, run_seed

FIRST = int(os.environ.get("TIERLINE_SEED", "0"))
SEEDS = int(os.environ.get("TIERLINE_SEEDS", "2000"))
NIGHTLY_SEEDS = int(os.environ.get("TIERLINE_NIGHTLY_SEEDS", "200000"))
SHARD = os.environ.get("TIERLINE_SHARD", "1/1")
CHUNK = 250  # seeds a worker takes at once

# What must have been seen at least once, or the seeds no longer reach what they are to show.
SOMETIMES = {
    *(f"fault {kind}" for kind in FaultKind),
    *(f"breaker {step}" for step in ("closed to open", "open to half_open", "half_open to open")),
    "breaker half_open to closed",
    *(f"breaker opened by {why}" for why in ("consecutive", "rate", "slow", "probe")),
    "late result",
    *(f"{kind} call where sheddable ones are shed" for kind in ("default", "critical")),
    "ejected",
    "panic",
    "bundle implicated",
    "retry budget exhausted",
    "pushback honoured",
    "attempt hedge ok",
    "attempt hedge abandoned",
    *(f"attempt {kind} ok" for kind in ("first", "failover", "retry", "escalation")),
    *(f"end {how}" for how in ("full", "edge", "degraded", "cancelled", "Unavailable")),
    *(f"end {error}" for error in ("DeadlineExceeded", "Overloaded", "NotPermitted")),
    *(f"end {error}" for error in ("BadRequest", "ModelNotFound")),
    *(f"reason {why}" for why in ("certain", "no_cloud", "edge_only", "cloud_only", "escalated")),
    *(
        f"reason escalation_refused: {why}"
        for why in ("breaker", "deadline", "budget", "threshold")
    ),
    "reason escalation_failed: timed_out",
    "reason edge_failed: breaker",
    "reason last_good_answer: timed_out",
    "reason popularity_prior: timed_out",
}


def seen_in(seeds: Iterable[int]) -> Counter[str]:
    """What these seeds came by. Raises PropertyFailed with a minimal schedule."""
    seen: Counter[str] = Counter()
    gc.collect()
    gc.disable()  # a run leaves cycles; collecting them in bulk saves a sixth of the time
    try:
        for number, seed in enumerate(seeds):
            seen += check(run_seed(seed)).seen
            if number % 50 == 49:
                gc.collect()
    finally:
        gc.enable()
    return seen


def seen_by_all(seeds: range) -> Counter[str]:
    """What these seeds came by, shared among this machine's cores."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    seen: Counter[str] = Counter()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for part in pool.map(seen_in, chunks):
            seen += part
    return seen


@pytest.mark.slow
def test_every_property_holds_for_every_seed_and_everything_is_seen() -> None:
    seen = seen_by_all(range(FIRST, FIRST + SEEDS))
    if SEEDS >= 2000:
        assert {what for what in SOMETIMES if not seen[what]} == set()


@pytest.mark.nightly
def test_every_property_holds_for_the_seeds_of_the_night() -> None:
    shard, shards = (int(part) for part in SHARD.split("/"))
    share = NIGHTLY_SEEDS // shards
    seen = seen_by_all(range((shard - 1) * share, shard * share))
    assert {what for what in SOMETIMES if not seen[what]} == set()
