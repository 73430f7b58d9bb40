"""From the manifest to the caller's answer: a real edge node tells what was certified of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bundles

import tierline
from tierline._channels import ModelDescription, Outgoing
from tierline._client import open_channel
from tierline._config import ClientConfig
from tierline.certificate import ESCALATE_ALL, KEEP_ALL, Certificate, CurvePoint, Subject
from tierline.wire import ScoreReply
from tierline_edge.embedded import open_scorer
from tierline_serving.bundle import Bundle
from tierline_serving.certified import subject_of

DIGEST = "d" * 64
CLOUD = "http://cloud:1"
K = 5
NOTHING = Subject(model="0" * 64, catalogue="0" * 64, quantization="0" * 64, cloud=DIGEST)
CERTIFICATE = Certificate(
    loss=f"L_agree@{K}",
    method="wsr",
    slot="test",
    created="2026-11-21T07:00:00Z",
    alpha=0.05,
    delta=0.05,
    n=4000,
    threshold=KEEP_ALL,
    curve=(
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=KEEP_ALL, bound=0.05, escalation=0.0),
    ),
    subject=NOTHING,
)


class Cloud:
    """Says which bundle it serves, and answers nothing."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle

    def describe(self, model: str, timeout: float) -> ModelDescription:
        return {"name": model, "bundle": self.bundle}

    def ask(self, outgoing: Outgoing, number: int, timeout: float) -> ScoreReply:
        raise tierline.ConnectFailed("refused")

    def close(self) -> None:
        pass


def certified(folder: Path, *, about: Subject | None = None) -> Bundle:
    """A bundle certified for its own files, or for others."""
    plain = tiny_bundles.write_sequence(folder / "plain")
    subject = about or subject_of(plain.manifest, cloud=DIGEST)
    certificate = replace(CERTIFICATE, subject=subject)
    return tiny_bundles.write_sequence(folder / "certified", certificate=certificate.to_json())


Asked = Callable[[Bundle, str], tierline.Answer]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The answer of a prepared client to one recommendation."""

    def answer(bundle: Bundle, cloud: str) -> tierline.Answer:
        def opened(url: str, config: ClientConfig) -> object:
            return Cloud(cloud) if url == CLOUD else open_channel(url, config)

        monkeypatch.setattr("tierline._client.open_channel", opened)
        edge = f"embedded:{bundle.path}"
        policy = tierline.EscalationPolicy(threshold=1.0)
        with tierline.Client(
            edge=[edge], cloud=[CLOUD], allow_unsigned=True, escalation=policy, deadline=5.0
        ) as client:
            client.prepare("ranker")
            client._fleet.control("ranker").cloud_answered(CLOUD, cloud)
            return client.recommend("ranker", query={"history": np.array([1, 2])}, k=K)

    return answer


def test_an_answer_of_the_certified_files_beside_the_certified_cloud_is_certified(
    tmp_path: Path, ask: Asked
) -> None:
    said = ask(certified(tmp_path), f"1@{DIGEST[:12]}").certificate
    assert said is not None
    assert (said.valid, said.reasons, said.alpha, said.n) == (True, (), 0.05, 4000)


def test_another_cloud_and_other_files_void_it(tmp_path: Path, ask: Asked) -> None:
    said = ask(certified(tmp_path, about=NOTHING), "2@000000000000").certificate
    assert said is not None
    assert said.reasons == (
        "model changed since calibration",
        "catalogue changed since calibration",
        "quantization changed since calibration",
        "the cloud changed since calibration",
    )


def test_a_node_tells_no_certificate_it_does_not_have(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path)
    scorer = open_scorer(str(bundle.path), allow_unsigned=True)
    assert "certificate" not in scorer.info.details
    assert scorer.info.details["chances"] is None
