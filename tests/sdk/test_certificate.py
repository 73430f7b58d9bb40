"""The certificate as a value: what it says at any threshold, when it is void, how it is read."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.certificate import ESCALATE_ALL, KEEP_ALL, Certificate, CurvePoint, Subject

SUBJECT = Subject(model="a" * 64, catalogue="b" * 64, quantization="c" * 64, cloud="d" * 64)
CERTIFICATE = Certificate(
    loss="L_agree@10",
    method="hoeffding-bentkus",
    slot="test",
    created="2026-11-21T07:00:00Z",
    alpha=0.05,
    delta=0.05,
    n=4000,
    threshold=0.3,
    curve=(
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=0.3, bound=0.06, escalation=0.4),
        CurvePoint(threshold=0.6, bound=0.15, escalation=0.1),
        CurvePoint(threshold=KEEP_ALL, bound=0.25, escalation=0.0),
    ),
    subject=SUBJECT,
)


def test_a_static_policy_carries_alpha_and_is_valid() -> None:
    status = CERTIFICATE.judge(SUBJECT)
    assert (status.alpha, status.delta, status.n, status.threshold) == (0.05, 0.05, 4000, 0.3)
    assert status.valid
    assert status.reasons == ()
    assert status.id == CERTIFICATE.id


@pytest.mark.parametrize(
    ("threshold", "bound"),
    [(-2.0, 0.0), (-1.0, 0.0), (-0.5, 0.06), (0.3, 0.06), (0.31, 0.15), (0.99, 0.25), (2.0, 0.25)],
)
def test_between_two_points_the_bound_of_the_higher_threshold_holds(
    threshold: float, bound: float
) -> None:
    assert CERTIFICATE.bound_at(threshold) == bound


@given(st.floats(-2, 2), st.floats(0, 1))
def test_a_higher_threshold_or_more_forced_calls_never_lower_the_bound(
    threshold: float, forced: float
) -> None:
    bound = CERTIFICATE.bound_with_forced(threshold, forced)
    assert bound >= CERTIFICATE.bound_at(threshold)
    assert bound <= CERTIFICATE.bound_with_forced(threshold + 0.1, min(1.0, forced + 0.1))
    assert bound <= CERTIFICATE.curve[-1].bound


def test_a_moving_policy_carries_the_curves_bound_and_says_when_it_is_above_alpha() -> None:
    low = CERTIFICATE.judge(SUBJECT, threshold=-0.9)
    high = CERTIFICATE.judge(SUBJECT, threshold=0.5)
    assert not low.valid  # the curve's .06 at the next point, though alpha would hold there
    assert (high.alpha, high.valid) == (0.15, False)
    assert high.reasons == ("the bound is 0.15, above alpha 0.05",)


def test_calls_forced_to_the_edge_count_into_the_bound_and_void_it() -> None:
    status = CERTIFICATE.judge(SUBJECT, forced=0.02)
    assert status.alpha == pytest.approx(0.07)
    assert not status.valid
    assert "2.0% of calls forced to the edge" in status.reasons[0]


@pytest.mark.parametrize("part", ["model", "catalogue", "quantization", "cloud"])
def test_a_change_of_any_part_voids_the_certificate(part: str) -> None:
    status = CERTIFICATE.judge(replace(SUBJECT, **{part: "e" * 64}))
    assert not status.valid
    assert status.reasons == (f"{part} changed since calibration",)


def test_an_alarm_revokes_it_with_its_own_reason() -> None:
    status = CERTIFICATE.judge(SUBJECT, alarm="shadow traffic shows a loss above alpha")
    assert not status.valid
    assert status.reasons == ("shadow traffic shows a loss above alpha",)


def test_what_is_written_is_read_back_the_same() -> None:
    text = json.dumps(CERTIFICATE.to_json())
    assert Certificate.from_json(json.loads(text)) == CERTIFICATE


def test_the_id_changes_with_anything_the_certificate_says() -> None:
    others = [
        replace(CERTIFICATE, alpha=0.04),
        replace(CERTIFICATE, slot="live"),
        replace(CERTIFICATE, subject=replace(SUBJECT, cloud="e" * 64)),
    ]
    assert len({CERTIFICATE.id, *(other.id for other in others)}) == 4


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("alpha",), 0.01, "id"),
        (("alpha",), "0.05", "alpha"),
        (("alpha",), True, "alpha"),
        (("n",), 4000.0, "n"),
        (("curve",), {}, "curve"),
        (("curve", 1, "bound"), None, "bound"),
        (("curve", 1, "threshold"), 0.7, "rise"),
        (("curve", 1, "bound"), 0.5, "bounds rise"),
        (("curve", 3, "threshold"), 0.9, "must end"),
        (("curve", 3, "bound"), 1.5, r"\[0, 1\]"),
        (("threshold",), 0.4, "no point"),
        (("delta",), 1.0, "delta"),
        (("subject", "model"), "A" * 64, "hex"),
        (("subject", "extra"), "x", "extra"),
        (("extra",), 1, "extra"),
    ],
)
def test_a_damaged_certificate_is_refused_with_the_fields_name(
    path: tuple[Any, ...], value: Any, message: str
) -> None:
    damaged = copy.deepcopy(CERTIFICATE.to_json())
    at: Any = damaged
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Certificate.from_json(damaged)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_anything_else_than_a_certificate_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected an object"):
        Certificate.from_json(value)


@pytest.mark.parametrize("forced", [-0.1, 1.1, float("nan")])
def test_a_forced_share_outside_the_unit_interval_is_an_error(forced: float) -> None:
    with pytest.raises(ValueError, match="share"):
        CERTIFICATE.bound_with_forced(0.3, forced)


def test_a_threshold_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        CERTIFICATE.bound_at(float("nan"))
