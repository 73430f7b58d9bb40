"""What may be certified, and the calibrations that are refused: each refusal names its mistake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from population import accepted_points, draw_calls, true_risks

from tierline.certificate import KEEP_ALL, Certificate, Subject
from tierline_cloud.certificate import (
    CalibrationRefused,
    CalibrationSample,
    Plan,
    certify,
    threshold_grid,
)

SUBJECT = Subject(model="a" * 64, catalogue="b" * 64, quantization="c" * 64, cloud="d" * 64)
CREATED = "2026-11-21T07:00:00Z"


def _plan(*, alpha: float = 0.05, method: str = "hoeffding-bentkus") -> Plan:
    uncertainty, _ = draw_calls(np.random.default_rng(21), (3000,))
    return Plan.make(
        alpha=alpha,
        delta=0.05,
        uncertainty=uncertainty,
        users=np.arange(3000),
        slot="test",
        method=method,
    )


def _sample(n: int = 4000, seed: int = 22) -> CalibrationSample:
    uncertainty, losses = draw_calls(np.random.default_rng(seed), (n,))
    return CalibrationSample(
        users=np.arange(3000, 3000 + n), losses=losses, uncertainty=uncertainty, slot="test"
    )


def _certify(plan: Plan, sample: CalibrationSample) -> Certificate:
    return certify(plan, sample, subject=SUBJECT, created=CREATED)


@pytest.mark.parametrize("method", ["hoeffding-bentkus", "wsr", "empirical-bernstein"])
def test_five_percent_is_certified_with_four_thousand_users(method: str) -> None:
    certificate = _certify(_plan(method=method), _sample())
    assert (certificate.alpha, certificate.delta, certificate.n) == (0.05, 0.05, 4000)
    kept = certificate.curve[[p.threshold for p in certificate.curve].index(certificate.threshold)]
    assert 0.3 < kept.escalation < 0.6


def test_the_same_calibration_gives_the_same_certificate_whatever_the_order() -> None:
    sample, order = _sample(), np.random.default_rng(5).permutation(4000)
    shuffled = CalibrationSample(
        users=sample.users[order],
        losses=sample.losses[order],
        uncertainty=sample.uncertainty[order],
        slot="test",
    )
    plan = _plan(method="wsr")
    assert _certify(plan, sample).id == _certify(plan, shuffled).id


def test_a_sample_of_another_slot_is_refused() -> None:
    with pytest.raises(CalibrationRefused, match="slot 'valid' but slot 'test' is served"):
        _certify(_plan(), replace(_sample(), slot="valid"))


def test_users_that_shaped_the_router_or_the_grid_are_refused() -> None:
    sample = _sample()
    overlapping = replace(sample, users=sample.users - 1)  # user 2999 gave a grid point
    with pytest.raises(CalibrationRefused, match="2999"):
        _certify(_plan(), overlapping)


def test_a_user_that_occurs_twice_is_refused() -> None:
    sample = _sample()
    users = sample.users.copy()
    users[1] = users[0]
    with pytest.raises(CalibrationRefused, match="twice"):
        _certify(_plan(), replace(sample, users=users))


@pytest.mark.parametrize("field", ["losses", "uncertainty"])
def test_values_outside_the_unit_interval_are_refused(field: str) -> None:
    sample = _sample()
    beyond = {"losses": sample.losses - 0.01, "uncertainty": sample.uncertainty + 0.01}[field]
    with pytest.raises(CalibrationRefused, match=field):
        _certify(_plan(), replace(sample, **{field: beyond}))


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(CalibrationRefused, match="one length"):
        _certify(_plan(), replace(_sample(), losses=np.zeros(5)))


def test_too_few_users_are_refused_with_the_number_it_takes() -> None:
    with pytest.raises(CalibrationRefused, match="it takes 59"):
        _certify(_plan(), _sample(58))


def test_a_method_that_certifies_nothing_refuses_rather_than_escalating_in_silence() -> None:
    with pytest.raises(CalibrationRefused, match="more users"):
        _certify(_plan(method="empirical-bernstein"), _sample(60))


def test_a_plan_with_a_grid_of_its_own_must_span_all_policies() -> None:
    with pytest.raises(ValueError, match="must rise"):
        replace(_plan(), grid=(0.2, 0.5, KEEP_ALL))


# What the refusals prevent: each mistake, made without them, breaks the promise too often.


def test_a_calibration_on_an_easier_slot_breaks_the_promise_nearly_always() -> None:
    # Losses in the valid slot are a fifth smaller than in the slot that is served.
    grid = threshold_grid(draw_calls(np.random.default_rng(5), (4000,))[0])
    uncertainty, losses = draw_calls(np.random.default_rng(8), (100, 4000))
    accepted = accepted_points(
        uncertainty, 0.8 * losses, grid, alpha=0.05, delta=0.05, method="hoeffding-bentkus"
    )
    assert (true_risks(grid, 1_000_000)[accepted] > 0.05).mean() > 0.5


def test_losses_clipped_from_above_break_the_promise() -> None:
    grid = threshold_grid(draw_calls(np.random.default_rng(5), (4000,))[0])
    uncertainty, losses = draw_calls(np.random.default_rng(9), (100, 4000))
    accepted = accepted_points(
        uncertainty, np.minimum(losses, 0.5), grid, alpha=0.05, delta=0.05, method="wsr"
    )
    assert (true_risks(grid, 1_000_000)[accepted] > 0.05).mean() > 0.096


def test_a_router_chosen_on_the_calibration_users_breaks_the_promise() -> None:
    # Snooping: of 500 worthless routers, take the one whose kept calls happen to lose least on the
    # calibration data, and certify it on the same data.
    rng = np.random.default_rng(10)
    n, alpha, broken = 400, 0.10, 0
    for _ in range(40):
        losses = (rng.random(n) < 0.21).astype(float)
        kept = rng.random((500, n)) < 0.5  # each router keeps half, at random: true risk .105
        bound_of_best = accepted_points(
            np.zeros((1, n)),
            (losses * kept)[[(losses * kept).mean(axis=1).argmin()]],
            np.array([0.0]),
            alpha=alpha,
            delta=0.05,
            method="hoeffding-bentkus",
        )
        broken += int(bound_of_best[0] == 0)
    assert broken / 40 > 0.096
