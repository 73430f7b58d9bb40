"""A certificate and what endpoints say of the bundle that carries it: what several tests share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from tierline.certificate import ESCALATE_ALL, KEEP_ALL, Certificate, CurvePoint, Subject
from tierline.wire import ScoreReply, ScoreRequest

CLOUD_DIGEST = "d" * 64
SUBJECT = Subject(model="a" * 64, catalogue="b" * 64, quantization="c" * 64, cloud=CLOUD_DIGEST)
EDGE_BUNDLE, CLOUD_BUNDLE = "1@eeeeeeeeeeee", f"1@{CLOUD_DIGEST[:12]}"
CERTIFICATE = Certificate(
    loss="L_agree@10",
    method="wsr",
    slot="test",
    created="2026-11-21T07:00:00Z",
    alpha=0.05,
    delta=0.05,
    n=4000,
    threshold=0.5,
    curve=(
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=0.25, bound=0.02, escalation=0.7),
        CurvePoint(threshold=0.5, bound=0.06, escalation=0.4),
        CurvePoint(threshold=0.75, bound=0.12, escalation=0.2),
        CurvePoint(threshold=KEEP_ALL, bound=0.25, escalation=0.0),
    ),
    subject=SUBJECT,
)
HISTORY = {"history": np.arange(1, 4)}
RECOMMEND = ScoreRequest(model="ranker", query=HISTORY, k=10)


def edge_description(certificate: Certificate | None = CERTIFICATE, **other: str) -> dict[str, Any]:
    """What an edge endpoint tells of its model; ``other`` digests of what it serves."""
    details: dict[str, Any] = {}
    if certificate is not None:
        running = {name: digest for name, digest in asdict(SUBJECT).items() if name != "cloud"}
        details = {"certificate": certificate.to_json(), "subject": {**running, **other}}
    told = {"name": "ranker", "bundle": EDGE_BUNDLE, "kind": "sequence", "threshold": 0.5}
    return {**told, "details": details}


def listing(bundle: str, items: list[int], uncertainty: float | None = None) -> ScoreReply:
    """A tier's recommendations, best first."""
    return ScoreReply(
        model="ranker",
        bundle=bundle,
        scores=-np.arange(len(items), dtype=np.float32),
        items=np.array(items, np.int64),
        uncertainty=uncertainty,
        threshold=None if uncertainty is None else 0.5,
    )


SAME, OTHER = list(range(1, 11)), list(range(11, 21))
EDGE_SURE = listing(EDGE_BUNDLE, SAME, uncertainty=0.3)
EDGE_UNSURE = listing(EDGE_BUNDLE, SAME, uncertainty=0.9)
CLOUD_LIST = listing(CLOUD_BUNDLE, SAME)
