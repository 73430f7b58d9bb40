"""Certificates: bounds, the tests that choose a threshold, and what a bundle may claim."""

from tierline_cloud.certificate.bounds import (
    METHODS,
    CalibrationRefused,
    hoeffding_bentkus_bound,
    hoeffding_bentkus_p_value,
    signed_gap_bound,
    upper_bound,
)
from tierline_cloud.certificate.issue import CalibrationSample, Plan, certify
from tierline_cloud.certificate.procedures import (
    conformal_risk_threshold,
    empirical_risks,
    fixed_sequence,
    segment_bounds,
    threshold_grid,
    uniform_curve,
)

__all__ = [
    "METHODS",
    "CalibrationRefused",
    "CalibrationSample",
    "Plan",
    "certify",
    "conformal_risk_threshold",
    "empirical_risks",
    "fixed_sequence",
    "hoeffding_bentkus_bound",
    "hoeffding_bentkus_p_value",
    "segment_bounds",
    "signed_gap_bound",
    "threshold_grid",
    "uniform_curve",
    "upper_bound",
]
