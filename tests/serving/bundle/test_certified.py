"""A bundle's certificate holds for the files it was made for, and for no others."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import sample

from tierline import BundleRefused
from tierline.certificate import Certificate, Subject
from tierline_serving.certified import standing, subject_of, told
from tierline_serving.manifest import Manifest

Json = dict[str, Any]  # Any: tests reach into nested JSON
CLOUD = "d" * 64


def _certified() -> Json:
    """The manifest of a bundle whose certificate is about its own files."""
    files = {name: {"sha256": "0" * 64, "bytes": 1} for name in sample.sequence_files()}
    manifest: Json = copy.deepcopy({**sample.sequence_manifest(), "files": files})
    subject = subject_of(Manifest.from_json(manifest), cloud=CLOUD)
    manifest["certificate"] = replace(sample.CERTIFICATE, subject=subject).to_json()
    return manifest


def _reasons(manifest: Json, cloud: str = CLOUD) -> tuple[str, ...]:
    status = standing(Manifest.from_json(manifest), cloud=cloud)
    assert status is not None
    assert status.valid == (not status.reasons)
    return status.reasons


def test_a_certificate_is_valid_beside_the_files_it_is_about() -> None:
    assert _reasons(_certified()) == ()


def test_a_manifest_without_a_certificate_is_read_and_says_nothing() -> None:
    manifest = _certified()
    del manifest["certificate"]
    assert standing(Manifest.from_json(manifest), cloud=CLOUD) is None


def test_dates_metrics_and_the_version_do_not_void_it() -> None:
    manifest = _certified()
    manifest.update(version="2", created="2026-12-01T00:00:00Z", metrics={})
    assert _reasons(manifest) == ()


def test_another_graph_voids_it() -> None:
    manifest = _certified()
    manifest["files"][sample.MODEL]["sha256"] = "1" * 64
    assert _reasons(manifest) == ("model changed since calibration",)


@pytest.mark.parametrize("file", [f"near/{name}.npy" for name in sample.neighbours()])
def test_other_neighbours_void_it(file: str) -> None:
    manifest = _certified()
    manifest["files"][file]["sha256"] = "1" * 64
    assert _reasons(manifest) == ("catalogue changed since calibration",)


def test_neighbours_that_say_more_void_it_and_so_do_none() -> None:
    manifest = _certified()
    manifest["sequence"]["neighbours"]["weight"] = 1.5
    assert _reasons(manifest) == ("model changed since calibration",)
    del manifest["sequence"]["neighbours"]
    assert len(_reasons(manifest)) == 2


def test_other_items_void_it() -> None:
    manifest = _certified()
    manifest["files"]["tables/codes.npy"]["sha256"] = "1" * 64
    assert _reasons(manifest) == ("catalogue changed since calibration",)


def test_another_quantization_voids_it() -> None:
    manifest = _certified()
    manifest["runtime"]["precision"] = "int4"
    assert _reasons(manifest) == ("quantization changed since calibration",)


def test_another_cloud_voids_it() -> None:
    assert _reasons(_certified(), cloud="e" * 64) == ("cloud changed since calibration",)


def test_a_threshold_above_the_certified_one_rests_on_the_curve() -> None:
    manifest = _certified()
    manifest["uncertainty"]["threshold"] = 0.5
    assert _reasons(manifest) == ("the bound is 0.25, above alpha 0.05",)


def test_a_threshold_below_the_certified_one_keeps_alpha() -> None:
    manifest = _certified()
    manifest["uncertainty"]["threshold"] = 0.1
    assert _reasons(manifest) == ()


def test_a_certificate_without_an_uncertainty_is_refused() -> None:
    manifest = _certified()
    del manifest["uncertainty"]
    with pytest.raises(BundleRefused, match="certificate: is about an uncertainty threshold"):
        Manifest.from_json(manifest)


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", 0.01), ("n", 10**400), ("threshold", 10**400), ("loss", "x\ud800"), ("id", [])],
)
def test_a_certificate_that_was_altered_is_refused(key: str, value: object) -> None:
    manifest = _certified()
    manifest["certificate"][key] = value
    with pytest.raises(BundleRefused, match=r"manifest\.certificate"):
        Manifest.from_json(manifest)


def test_clients_are_told_the_certificate_and_what_of_its_subject_is_served_here() -> None:
    manifest = _certified()
    manifest["files"][sample.MODEL]["sha256"] = "1" * 64
    details = json.loads(json.dumps(told(Manifest.from_json(manifest))))
    certificate = Certificate.from_json(details["certificate"])
    running = Subject(**details["subject"], cloud=certificate.subject.cloud)
    assert certificate.changes(running) == ("model changed since calibration",)
    del manifest["certificate"]
    assert told(Manifest.from_json(manifest)) == {}
