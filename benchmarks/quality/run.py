"""Measures certificates and live control on made-up calls: coverage, price, budget, alarm.

Nothing is trained. 200 calibrations of 4,000 users each ask how often a certified threshold breaks
its promise and what certainty costs over the naive threshold; then come the tracker under traffic
steps, and the shadow alarm with and without a shift.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from population import accepted_points, draw_calls, true_risks
from shadow_traffic import RATE, Traffic, first_rings

from tierline._config import EscalationPolicy
from tierline._core.control import EscalationControl
from tierline._core.shadow import ShadowPlan
from tierline.certificate import Certificate, Subject
from tierline_cloud.certificate import (
    METHODS,
    hoeffding_bentkus_p_value,
    threshold_grid,
    uniform_curve,
)

ROOT = Path(__file__).resolve().parent.parent.parent
MAPIE = ROOT / "tests" / "cloud" / "certificate" / "mapie_values.json"
SPLITS, USERS, DELTA, ALPHAS = 200, 4000, 0.05, (0.03, 0.05, 0.10)
NULL_CALLS = 100_000
BY_CERTIFICATE = "_by_certificate"


def p_value_difference() -> float:
    """The largest difference to the p-values recorded from MAPIE."""
    recorded = json.loads(MAPIE.read_text("utf-8"))["p_values"]
    return max(
        abs(hoeffding_bentkus_p_value(risk, n, alpha, binary=binary) - theirs)
        for n, alpha, risk, binary, theirs in recorded
    )


def coverage() -> dict[str, dict[str, float]]:
    """By method: the worst share of broken promises over ALPHAS, and the price at alpha .05 in
    points of escalation over the naive threshold."""
    grid = threshold_grid(draw_calls(np.random.default_rng(5), (USERS,))[0])
    true = true_risks(grid)
    uncertainty, losses = draw_calls(np.random.default_rng(7), (SPLITS, USERS))
    escalation = np.array([(uncertainty > threshold).mean() for threshold in grid])
    found: dict[str, dict[str, float]] = {}
    for method in ("naive", "crc", *METHODS):
        broken, escalated = 0.0, 0.0
        for alpha in ALPHAS:
            points = accepted_points(
                uncertainty, losses, grid, alpha=alpha, delta=DELTA, method=method
            )
            broken = max(broken, float((true[points] > alpha).mean()))
            if alpha == 0.05:
                escalated = float(escalation[points].mean())
        found[method] = {"violations": broken, "escalation": escalated}
    for values in found.values():
        values["price_points"] = 100 * (values["escalation"] - found["naive"]["escalation"])
    return found


def budget_error() -> float:
    """The worst distance from the budget after 10,000 calls with two traffic steps, in points."""
    shapes = [(2, 5)] * 4000 + [(6, 2)] * 3000 + [(1, 9)] * 3000
    worst = 0.0
    for budget in (0.05, 0.1, 0.2, 0.5):
        for seed in range(10):
            rng = random.Random(seed)
            control = EscalationControl(EscalationPolicy(mode="budget_first", budget=budget))
            spent = sum(control.decide(rng.betavariate(*shape)).escalate for shape in shapes)
            worst = max(worst, abs(spent / len(shapes) - budget))
    return 100 * worst


def plan_of_certificate(traffic: Traffic) -> ShadowPlan:
    """What a client makes of the certificate alone, which is all it has of the calibration."""
    grid = threshold_grid(traffic.calls(np.random.default_rng(4), USERS, 0.05)[0])
    uncertainty, losses = traffic.calls(np.random.default_rng(3), USERS, 0.05)
    nearest = min(grid.tolist(), key=lambda point: abs(point - traffic.threshold))
    digest = "0" * 64
    certificate = Certificate(
        loss="L_agree@10",
        method="wsr",
        slot="test",
        created="2026-11-21T07:00:00Z",
        alpha=0.05,
        delta=DELTA,
        n=USERS,
        threshold=nearest,
        curve=uniform_curve(losses, uncertainty, grid, delta=DELTA, method="wsr"),
        subject=Subject(model=digest, catalogue=digest, quantization=digest, cloud=digest),
    )
    plan = ShadowPlan.of(certificate, threshold=traffic.threshold, rate=RATE)
    assert plan is not None, "calls are kept at the threshold"
    return plan


def alarm() -> dict[str, dict[str, float]]:
    """For losses of small and of large spread (standard deviation .11 and .16 before the shift), by
    the calibration sample's plan and by the certificate's."""
    found = {}
    for name, spread in (("many_small", False), ("few_large", True)):
        traffic = Traffic(spread=spread)
        plans = {name: traffic.plan(), f"{name}{BY_CERTIFICATE}": plan_of_certificate(traffic)}
        for label, plan in plans.items():
            shifted = first_rings(traffic, plan, risk=0.08, runs=200, calls=10_000)
            still = first_rings(traffic, plan, risk=0.05, runs=200, calls=NULL_CALLS, together=5)
            found[label] = {
                "median_delay": float(np.median(shifted)),
                "detected": float(np.isfinite(shifted).mean()),
                "false_alarms": float(np.isfinite(still).mean()),
            }
    return found


def _worst(
    alarms: dict[str, dict[str, float]], suffix: str, chosen: Callable[[str], bool]
) -> dict[str, float]:
    """The worst of the chosen alarms."""
    found = [values for name, values in alarms.items() if chosen(name)]
    return {
        f"worst_median_delay{suffix}": max(values["median_delay"] for values in found),
        f"least_detected{suffix}": min(values["detected"] for values in found),
        f"worst_false_alarms{suffix}": max(values["false_alarms"] for values in found),
    }


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the figures here; - for the last line of output")
    options = parser.parse_args()
    methods, alarms = coverage(), alarm()
    figures = {
        "p_value_difference": p_value_difference(),
        "worst_violations": max(methods[method]["violations"] for method in METHODS),
        "budget_error_points": budget_error(),
        **_worst(alarms, "", lambda name: not name.endswith(BY_CERTIFICATE)),
        **_worst(alarms, BY_CERTIFICATE, lambda name: name.endswith(BY_CERTIFICATE)),
        "methods": methods,
        "alarm": alarms,
    }
    print(f"{SPLITS} calibrations of {USERS} users, delta {DELTA}, alphas {ALPHAS}")
    for method, values in methods.items():
        broken, price = values["violations"], values["price_points"]
        print(f"  {method:20} promise broken {broken:6.1%}   price {price:+5.1f} points")
    for name, found in alarms.items():
        print(f"  alarm, {name}: {found}")
    if options.json and options.json != "-":
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
