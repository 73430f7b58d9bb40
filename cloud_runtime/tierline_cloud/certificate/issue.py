"""Turns a plan made beforehand and a calibration sample into a certificate, or refuses."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierline.certificate import ESCALATE_ALL, KEEP_ALL, Certificate, Subject
from tierline_cloud.certificate.bounds import (
    METHODS,
    CalibrationRefused,
    Losses,
    smallest_sample,
)
from tierline_cloud.certificate.procedures import (
    Thresholds,
    fixed_sequence,
    threshold_grid,
    uniform_curve,
)

Ids = NDArray[np.int64]

GRID_POINTS = 50  # δ/G stays at .001 for δ = .05, and a step is 2 % of the calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is decided before the calibration data is looked at.

    ``used_users`` took part in any choice so far: they trained the router, gave the grid, stopped
    the training. ``slot`` names which events are served (``"test"``, ``"live"``): another slot is
    another distribution. ``seed`` orders the sample for the betting bound.
    """

    alpha: float
    delta: float
    grid: tuple[float, ...]
    used_users: frozenset[int]
    slot: str
    method: str = "hoeffding-bentkus"
    loss: str = "L_agree@10"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: use one of {', '.join(METHODS)}")
        if not (0 < self.alpha < 1 and 0 < self.delta < 1):
            raise ValueError("alpha and delta must lie strictly between 0 and 1")
        rising = all(a < b for a, b in zip(self.grid, self.grid[1:], strict=False))
        if not rising or self.grid[:1] != (ESCALATE_ALL,) or self.grid[-1:] != (KEEP_ALL,):
            raise ValueError(f"the grid must rise from {ESCALATE_ALL} to {KEEP_ALL}")

    @classmethod
    def make(
        cls,
        *,
        alpha: float,
        delta: float,
        uncertainty: Losses,
        users: Ids,
        slot: str,
        method: str = "hoeffding-bentkus",
        seed: int = 0,
    ) -> Plan:
        """A plan whose grid comes from the router's own training users: ``uncertainty`` of
        ``users``, who are thereby used."""
        return cls(
            alpha=alpha,
            delta=delta,
            grid=tuple(threshold_grid(uncertainty, GRID_POINTS).tolist()),
            used_users=frozenset(users.tolist()),
            slot=slot,
            method=method,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSample:
    """One call of each calibration user: its loss against the cloud's list if it were kept, and the
    edge's uncertainty, both in [0, 1]; all three arrays are [n]."""

    users: Ids
    losses: Losses
    uncertainty: Losses
    slot: str


def certify(
    plan: Plan, sample: CalibrationSample, *, subject: Subject, created: str
) -> Certificate:
    """Test the plan on the sample. Raises CalibrationRefused when the sample is not one the plan's
    guarantee covers, or when it certifies not even escalating everything."""
    _check_sample(plan, sample)
    order = _fixed_order(plan.seed, sample.users)
    losses, uncertainty = sample.losses[order], sample.uncertainty[order]
    grid: Thresholds = np.asarray(plan.grid)
    threshold = fixed_sequence(
        losses, uncertainty, grid, alpha=plan.alpha, delta=plan.delta, method=plan.method
    )
    if math.isnan(threshold):
        raise CalibrationRefused(
            f"n={losses.size} calls cannot certify alpha={plan.alpha} by {plan.method} even with "
            "every call escalated: calibrate on more users or ask for a larger alpha"
        )
    return Certificate(
        loss=plan.loss,
        method=plan.method,
        slot=plan.slot,
        created=created,
        alpha=plan.alpha,
        delta=plan.delta,
        n=losses.size,
        threshold=threshold,
        curve=uniform_curve(losses, uncertainty, grid, delta=plan.delta, method=plan.method),
        subject=subject,
    )


def _check_sample(plan: Plan, sample: CalibrationSample) -> None:
    n = sample.users.size
    if not (sample.users.shape == sample.losses.shape == sample.uncertainty.shape == (n,)):
        raise CalibrationRefused("users, losses and uncertainty must be vectors of one length")
    if sample.slot != plan.slot:
        raise CalibrationRefused(
            f"calibrated on slot {sample.slot!r} but slot {plan.slot!r} is served: the two are not "
            "exchangeable; split by user on the served slot"
        )
    if np.unique(sample.users).size != n:
        raise CalibrationRefused(
            "a user occurs twice: calls of one user are not independent; keep one call a user"
        )
    seen = plan.used_users.intersection(sample.users.tolist())
    if seen:
        raise CalibrationRefused(
            f"{len(seen)} calibration users already shaped the router or the grid (user "
            f"{min(seen)}, …): a threshold chosen on its own test proves nothing; deal users anew"
        )
    for name, values in (("losses", sample.losses), ("uncertainty", sample.uncertainty)):
        if not ((values >= 0) & (values <= 1)).all():
            raise CalibrationRefused(f"{name} must lie in [0, 1]")
    needed = smallest_sample(plan.alpha, plan.delta)
    if n < needed:
        raise CalibrationRefused(
            f"{n} users cannot certify alpha={plan.alpha} at delta={plan.delta}: even without any "
            f"loss it takes {needed}"
        )


def _fixed_order(seed: int, users: Ids) -> Ids:
    """A random order that depends on who takes part and on the plan, not on losses: the betting
    bound needs one, and users are often numbered by age."""
    digest = hashlib.sha256(np.sort(users).astype("<i8").tobytes()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    by_id = np.argsort(users, kind="stable")
    return by_id[rng.permutation(users.size)]
