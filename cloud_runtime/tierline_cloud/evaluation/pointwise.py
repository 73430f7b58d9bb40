"""Quality of single predicted probabilities: AUC, log loss, Brier score, calibration error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 15
_LEAST = 1e-15  # probabilities are moved this far from 0 and 1 before the logarithm


def auc(labels: Floats, scores: Floats) -> float:
    """The chance that a positive scores above a negative, ties counted half; NaN when one class is
    missing. Source: the Mann–Whitney statistic (Hanley & McNeil 1982)."""
    _check(labels, scores)
    positives = float(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    above = float(ranks[labels > 0].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def log_loss(labels: Floats, probabilities: Floats) -> float:
    """Mean −ln p(label), probabilities clipped to [1e-15, 1 − 1e-15]."""
    _check_probabilities(labels, probabilities)
    p = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return float(-np.where(labels > 0, np.log(p), np.log1p(-p)).mean())


def brier_score(labels: Floats, probabilities: Floats) -> float:
    """Mean squared difference of probability and label. Source: Brier 1950."""
    _check_probabilities(labels, probabilities)
    return float(((probabilities - labels) ** 2).mean())


def calibration_error(
    labels: Floats, probabilities: Floats, *, bins: int = BINS, equal_mass: bool = True
) -> float:
    """ECE = Σ_b |b|/n · |mean label − mean probability| over ``bins`` bins.

    ``equal_mass`` puts equally many predictions into each (equal probabilities stay in file order);
    otherwise the bins are ((i − 1)/bins, i/bins], the first with its left end. Sources: Naeini et
    al. 2015 (equal widths), Nixon et al. 2019 (equal mass).
    """
    _check_probabilities(labels, probabilities)
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    if equal_mass:
        order = np.argsort(probabilities, kind="stable")
        place = np.empty(labels.size, np.int64)
        place[order] = np.arange(labels.size) * bins // labels.size
    else:
        inner = np.arange(1, bins) / bins
        place = np.searchsorted(inner, probabilities, side="left")
    excess = np.bincount(place, weights=labels - probabilities, minlength=bins)
    return float(np.abs(excess).sum() / labels.size)


def _check_probabilities(labels: Floats, probabilities: Floats) -> None:
    _check(labels, probabilities)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")


def _check(labels: Floats, values: Floats) -> None:
    if labels.shape != values.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(f"expected two equally long vectors, got {labels.shape}, {values.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if np.isnan(values).any():
        raise ValueError("predictions must not be NaN")
