"""A bundle's certificate: read strictly, and held against the very files that are served."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from tierline.certificate import Certificate, CertificateStatus, Subject
from tierline_serving._fields import canonical_json, refuse

if TYPE_CHECKING:  # the manifest's reader reads certificates
    from tierline_serving.manifest import Manifest


def read_certificate(value: object, path: str) -> Certificate:
    """The manifest's ``certificate``. Raises BundleRefused naming the field."""
    try:
        return Certificate.from_json(value)
    except ValueError as error:
        refuse(path, str(error))


def subject_of(manifest: Manifest, *, cloud: str) -> Subject:
    """What a certificate of this bundle is about. ``cloud`` is the digest (sha256, hex) of the
    cloud's bundle. Version, dates, metrics and thresholds may change without changing it."""
    runtime = manifest.runtime
    entry = None if runtime.entry is None else manifest.files[runtime.entry].sha256
    inputs = [[spec.name, spec.dtype, list(spec.shape)] for spec in manifest.inputs]
    tables = {
        name: {path: manifest.files[path].sha256 for path in table.paths()}
        for name, table in manifest.tables.items()
    }
    shape: list[object] | None = None
    if manifest.sequence is not None:
        shape = [manifest.sequence.items, manifest.sequence.max_history, manifest.sequence.dim]
        near = manifest.sequence.neighbours
        if near is not None:  # which goes without saying, as before there were any
            shape.append([near.weight, near.decay, near.window, near.floor])
            tables["neighbours of items"] = {p: manifest.files[p].sha256 for p in near.paths()}
        part = manifest.sequence.carried
        if part is not None:
            shape.append(["carried", part.items, part.decay, part.window, part.above])
            tables["carried items"] = {p: manifest.files[p].sha256 for p in part.paths()}
    kinds = {name: table.codes is not None for name, table in manifest.tables.items()}
    return Subject(
        model=_digest([manifest.kind, runtime.engine, runtime.factory, entry, inputs, shape]),
        catalogue=_digest([None if shape is None else shape[0], tables]),
        quantization=_digest([runtime.precision, kinds]),
        cloud=cloud,
    )


def told(manifest: Manifest) -> dict[str, object]:
    """What clients are told in a model's description: the certificate, and what of its subject this
    node serves; {} without one. Which cloud answers they see for themselves."""
    if manifest.certificate is None:
        return {}
    running = asdict(subject_of(manifest, cloud=manifest.certificate.subject.cloud))
    del running["cloud"]
    return {"certificate": manifest.certificate.to_json(), "subject": running}


def chances_of(manifest: Manifest) -> dict[str, float] | None:
    """What turns the bundle's scores into chances, which mean the same for both tiers: (1 − floor)
    · softmax(score / temperature) + floor / items. None when the bundle was never calibrated."""
    said = manifest.metrics.get("temperature")
    if not isinstance(said, dict):
        return None
    values = {name: said.get(name) for name in ("temperature", "floor")}
    known = {name: float(v) for name, v in values.items() if isinstance(v, int | float)}
    return known if len(known) == len(values) else None


def standing(manifest: Manifest, *, cloud: str) -> CertificateStatus | None:
    """What the bundle's certificate is worth beside this cloud bundle, at the bundle's own
    threshold; None without a certificate."""
    certificate, uncertainty = manifest.certificate, manifest.uncertainty
    if certificate is None or uncertainty is None:
        return None
    threshold = uncertainty.threshold
    # At or below the certified threshold alpha holds: escalating more only loses less.
    certified = threshold is None or threshold <= certificate.threshold
    return certificate.judge(
        subject_of(manifest, cloud=cloud), threshold=None if certified else threshold
    )


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
