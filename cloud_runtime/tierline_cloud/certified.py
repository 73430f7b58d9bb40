"""The certificate of the pair the factory made: what its calibration users prove of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tierline.certificate import Certificate, Subject
from tierline_cloud.certificate import CalibrationRefused, CalibrationSample, Plan, certify
from tierline_cloud.evaluation import Ranking, agreement_loss
from tierline_cloud.factory import Factory
from tierline_serving.bundle import Bundle
from tierline_serving.certified import standing, subject_of
from tierline_serving.manifest import Manifest

SLOT = "test"  # the last event of users whose earlier ones were trained on
METHOD = "wsr"  # two to four points of escalation cheaper than the others (docs/quality.md)


def with_certificate(
    manifest: Mapping[str, object],
    files: Mapping[str, Path | bytes],
    *,
    factory: Factory,
    cloud: Bundle,
) -> dict[str, object]:
    """The edge's manifest with a certificate of this pair, or with the reason why there is none in
    ``metrics.certificate_refused``. ``files`` is what the bundle will hold."""
    entries = {name: _entry(content) for name, content in files.items()}
    subject = subject_of(Manifest.from_json({**manifest, "files": entries}), cloud=cloud.digest)
    try:
        certificate = pair_certificate(factory, subject=subject, created=str(manifest["created"]))
    except CalibrationRefused as error:
        metrics = manifest["metrics"]
        assert isinstance(metrics, dict)
        return {**manifest, "metrics": {**metrics, "certificate_refused": str(error)}}
    return {**manifest, "certificate": certificate.to_json()}


def pair_certificate(factory: Factory, *, subject: Subject, created: str) -> Certificate:
    """Certify the recipe's alpha on the calibration users. The router's users gave the grid and
    taught the head, so they take no part. Raises CalibrationRefused."""
    groups, uncertainty = factory.groups, factory.uncertainty
    edge = Ranking.load(factory.quantized.folder / "test")
    full = Ranking.load(factory.blend.folder / "test")
    plan = Plan.make(
        alpha=factory.recipe.alpha,
        delta=factory.recipe.delta,
        uncertainty=uncertainty[groups.router],
        users=groups.router,
        slot=SLOT,
        method=METHOD,
        seed=factory.seed,
    )
    users = groups.calibration
    sample = CalibrationSample(
        users=users,
        losses=agreement_loss(edge.top[users], full.top[users]),
        uncertainty=uncertainty[users],
        slot=SLOT,
    )
    return certify(plan, sample, subject=subject, created=created)


def certificate_claim(edge: Bundle, cloud: Bundle) -> dict[str, Any]:
    """What the pair's certificate says: where alpha holds, and what holds at the threshold set."""
    certificate = edge.manifest.certificate
    status = standing(edge.manifest, cloud=cloud.digest)
    if certificate is None or status is None:
        return {"refused": edge.manifest.metrics.get("certificate_refused", "it carries none")}
    at = next(p for p in certificate.curve if p.threshold == certificate.threshold)
    return {
        "id": certificate.id,
        "alpha": certificate.alpha,
        "delta": certificate.delta,
        "n": certificate.n,
        "threshold": certificate.threshold,
        "escalation": at.escalation,
        "status": asdict(status),
    }


def _entry(content: Path | bytes) -> dict[str, object]:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
