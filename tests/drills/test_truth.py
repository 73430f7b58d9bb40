"""What counts as a wrong answer: anything but what its bundle says, and what is made up unsaid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tierline import Answer
from tierline_drills.truth import Truth

EDGE, CLOUD = "1@edge", "1@cloud"


@pytest.fixture
def truth() -> Truth:
    return Truth(
        answers={
            EDGE: [([1, 2, 3], [0.9, 0.8, 0.7]), ([4, 5, 6], [0.6, 0.5, 0.4])],
            CLOUD: [([2, 1, 3], [1.9, 1.8, 1.7]), ([5, 4, 6], [1.6, 1.5, 1.4])],
        },
        tiers={EDGE: "edge", CLOUD: "cloud"},
        targets=[2, 9],
    )


def answer(
    items: list[int],
    scores: list[float],
    *,
    tier: str = "edge",
    bundle: str = EDGE,
    quality: str = "edge",
    reason: str = "certain",
) -> Answer:
    return Answer(
        np.array(scores, np.float32),
        np.array(items, np.int64),
        tier=tier,
        bundle=bundle,
        quality=quality,
        reason=reason,
        uncertainty=None,
        attempts=(),
        elapsed=0.01,
    )


def test_what_its_bundle_answers_is_right(truth: Truth) -> None:
    assert truth.complaint(0, answer([1, 2, 3], [0.9, 0.8, 0.7])) == ""
    standby = answer([2, 1, 3], [1.9, 1.8, 1.7], tier="standby", bundle=CLOUD, quality="full")
    assert truth.complaint(0, standby) == ""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer([4, 5, 6], [0.6, 0.5, 0.4]), "not what 1@edge answers"),  # another visit's
        (answer([1, 2, 3], [0.9, 0.8, 0.2]), "not what"),
        (answer([1, 2, 3], [0.9, 0.8, float("nan")]), "no number"),
        (answer([1, 2, 3], [0.9, 0.8, 0.7], bundle="stale@0"), "no such bundle"),
        (answer([1, 2, 3], [0.9, 0.8, 0.7], tier="cloud"), "is not of tier cloud"),
        (answer([7, 8, 9], [3.0, 2.0, 1.0], tier="client"), "called edge"),
        (
            answer([7, 8, 9], [3.0, 2.0, 1.0], tier="client", quality="degraded", reason="last"),
            "nobody ever answered this",
        ),
    ],
)
def test_anything_else_is_wrong_and_says_why(truth: Truth, given: Answer, why: str) -> None:
    assert why in truth.complaint(0, given)


def test_a_fallback_that_says_so_is_right(truth: Truth) -> None:
    kept = answer([1, 2, 3], [0.9, 0.8, 0.7], tier="client", quality="degraded", reason="last")
    prior = answer(
        [9, 8], [2.0, 1.0], tier="client", quality="degraded", reason="popularity_prior: x"
    )
    assert truth.complaint(0, kept) == ""
    assert truth.complaint(0, prior) == ""


def test_the_cost_of_an_answer_is_measured_against_the_clouds(truth: Truth) -> None:
    assert truth.full_gain(0) == 1.0
    assert truth.gain(0, [1, 2, 3]) == pytest.approx(0.6309, abs=1e-4)
    assert truth.full_gain(1) == 0.0


def test_a_new_version_of_the_same_model_answers_the_same(truth: Truth, tmp_path: Path) -> None:
    truth.alias("2@edge", "edge")
    truth.save(tmp_path / "truth.json")
    read = Truth.load(tmp_path / "truth.json")
    assert read.tiers["2@edge"] == "edge"
    assert read.answers["2@edge"][0][0] == [1, 2, 3]
