"""The gate's report: what it says of a pair with a gap, and of pairs that leave nothing to say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tierline_cloud.evaluation import Ranking
from tierline_cloud.evaluation.gate import gate_lines, gate_report

USERS = 4000


def _pair(gap: float) -> tuple[Ranking, Ranking, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """An edge that misses a share of the cloud's hits, more often the harder the call."""
    rng = np.random.default_rng(1)
    hardness = rng.random(USERS)
    cloud_ranks = np.where(rng.random(USERS) < 0.3, 1, 50)
    worse = rng.random(USERS) < gap * hardness
    top = np.tile(np.arange(1, 11), (USERS, 1))
    edge_top = np.where(worse[:, None], top[:, ::-1], top)
    edge = Ranking(ranks=np.where(worse, 50, cloud_ranks), top=edge_top)
    return edge, Ranking(ranks=cloud_ranks, top=top), hardness


def test_a_good_gate_is_better_than_chance_and_its_price_is_told() -> None:
    report = gate_report(*_pair(0.4))
    json.dumps(report, allow_nan=False)
    assert report["area_over_random"] < 0.9
    assert report["retention"]["mean"] == pytest.approx(0.8, abs=0.03)
    assert [at["escalation"] for at in report["budgets"]] == [0.1, 0.2, 0.5]
    assert all(at["loss"] < at["random"] for at in report["budgets"])
    said = gate_lines(report)
    assert "20% escalated" in said
    assert "to keep 95.0%: escalate" in said


def test_a_pair_that_agrees_leaves_nothing_to_escalate() -> None:
    assert "nothing to escalate" in gate_lines(gate_report(*_pair(0.0)))


def test_a_cloud_that_never_hits_leaves_nothing_to_retain() -> None:
    edge, cloud, hardness = _pair(0.4)
    blind = Ranking(ranks=np.full(USERS, 50), top=cloud.top)
    assert "nothing to retain" in gate_lines(gate_report(edge, blind, hardness))


def test_a_gap_within_the_noise_is_called_unmeasurable() -> None:
    edge, cloud, hardness = _pair(0.4)
    same = Ranking(ranks=cloud.ranks, top=edge.top)
    assert "no measurable gap" in gate_lines(gate_report(same, cloud, hardness))
