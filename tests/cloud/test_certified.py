"""The factory's pair: its certificate is about its own files, or the bundle says why not."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tierline.cli import EXIT_DONE, main
from tierline_cloud.bundles import write_bundles
from tierline_cloud.evaluation import Ranking, SampledMetricsWarning, agreement_loss
from tierline_cloud.factory import Factory, Source
from tierline_cloud.recipes import Recipe
from tierline_cloud.run import certificate_claim
from tierline_cloud.tables import certificate_line
from tierline_cloud.training.console import Console
from tierline_serving.bundle import Bundle
from tierline_serving.certified import standing

NOW = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def pair(
    factory: Factory, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    """Both bundles of the session's factory, with an alpha that 48 users can certify."""
    lenient = Factory(
        Source(path=None), replace(tiny_recipe, alpha=0.4), factory.out, Console(io.StringIO())
    )
    destination = tmp_path_factory.mktemp("bundles")
    return write_bundles(lenient, model="ranker", destination=destination, signer=None, now=NOW)


def test_the_edge_bundle_carries_a_certificate_of_its_own_files(pair: dict[str, Bundle]) -> None:
    certificate = pair["edge"].manifest.certificate
    status = standing(pair["edge"].manifest, cloud=pair["cloud"].digest)
    assert certificate is not None
    assert status is not None
    assert (certificate.alpha, certificate.n, certificate.slot) == (0.4, 48, "test")
    assert not [reason for reason in status.reasons if "changed" in reason]
    assert "L_agree ≤ 0.4" in certificate_line(certificate_claim(pair["edge"], pair["cloud"]))


def test_the_certified_threshold_keeps_alpha_on_the_calibration_users(
    pair: dict[str, Bundle], factory: Factory
) -> None:
    certificate = pair["edge"].manifest.certificate
    assert certificate is not None
    users = factory.groups.calibration
    edge = Ranking.load(factory.quantized.folder / "test")
    cloud = Ranking.load(factory.blend.folder / "test")
    losses = agreement_loss(edge.top[users], cloud.top[users])
    kept = factory.uncertainty[users] <= certificate.threshold
    assert np.where(kept, losses, 0.0).mean() < 0.4


def test_another_clouds_bundle_voids_it(pair: dict[str, Bundle]) -> None:
    status = standing(pair["edge"].manifest, cloud=pair["edge"].digest)
    assert status is not None
    assert "cloud changed since calibration" in status.reasons


def test_too_few_calibration_users_leave_a_reason_and_no_certificate(
    factory: Factory, tmp_path: Path
) -> None:
    pair = write_bundles(factory, model="ranker", destination=tmp_path, signer=None, now=NOW)
    assert pair["edge"].manifest.certificate is None
    line = certificate_line(certificate_claim(pair["edge"], pair["cloud"]))
    assert line.startswith("certificate: none; 48 users cannot certify")


def _evaluate(pair: dict[str, Bundle], factory: Factory, target: Path, *more: str) -> int:
    folders = [str(pair["edge"].path), str(pair["cloud"].path)]
    data = str(factory.out / "synthetic.txt")
    return main(["evaluate", *folders, data, "--allow-unsigned", "--json", str(target), *more])


def test_evaluate_reports_the_gate_and_the_certificate(
    pair: dict[str, Bundle],
    factory: Factory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _evaluate(pair, factory, tmp_path / "e.json") == EXIT_DONE
    found = json.loads((tmp_path / "e.json").read_text())
    certificate = pair["edge"].manifest.certificate
    assert certificate is not None
    assert found["certificate"]["id"] == certificate.id
    assert "sampled" not in found
    said = capsys.readouterr().out
    assert f"certificate {certificate.id}" in said
    assert "escalated: L_agree" in said


def test_evaluate_ranks_among_sampled_items_only_when_asked_and_warns(
    pair: dict[str, Bundle], factory: Factory, tmp_path: Path
) -> None:
    with pytest.warns(SampledMetricsWarning):
        assert _evaluate(pair, factory, tmp_path / "e.json", "--sampled") == EXIT_DONE
    found = json.loads((tmp_path / "e.json").read_text())
    full = found["tiers"][2]["metrics"]["hr@10"]
    assert found["sampled"]["cloud"]["hr@10"] > full
