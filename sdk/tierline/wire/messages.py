"""What a score call says on the wire: plain values, the same for every transport and every tier.

Request and reply are named tuples: made once or twice a call, they cost a third of a frozen
dataclass. Give their fields by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.generic]]

CANDIDATE_IDS = "id"  # the name candidates given as bare item ids travel under


class ScoreRequest(NamedTuple):
    """One model asked about one query.

    ``candidates`` maps a name to an array whose first axis is the candidate; bare item ids are
    ``{"id": int64[n]}``. ``candidates is None`` asks for the ``k`` best of the whole catalogue
    (``recommend``); otherwise ``k`` is None and every candidate is scored, in the given order.
    """

    model: str
    query: Tensors
    candidates: Tensors | None = None
    k: int | None = None
    version: str | None = None  # pin one bundle id; None: whatever the endpoint serves


class ScoreReply(NamedTuple):
    """What a tier answered.

    ``scores`` is float32[n]: in the order of the candidates, or, for ``recommend``, best first with
    ``items`` int64[k] beside it (−1 where fewer than k items were left, score −inf).
    ``uncertainty`` is in [0, 1] (None: this tier does not say); ``threshold`` is the uncertainty
    above which the bundle's calibration would escalate.
    """

    model: str
    bundle: str  # "<version>@<first 12 hex digits of the manifest's sha256>"
    scores: NDArray[np.float32]
    items: NDArray[np.int64] | None = None
    uncertainty: float | None = None
    threshold: float | None = None
    timings: Mapping[str, float] = MappingProxyType({})  # seconds: queue, compute


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """Why a server refused or failed: a code of ``wire.errors`` and a sentence."""

    code: str
    message: str
    retry_after: float | None = None  # seconds
