"""`tierline cloud deploy`: refuses what cannot be before Ray is asked, and says what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tierline.cli import EXIT_FAILED, EXIT_REFUSED, main
from tierline_cloud.ray.deploying import DeploymentFailed, Where, standing
from tierline_cloud.ray.plan import Plan
from tierline_serving.bundle import Bundle


def deploy(bundle: Bundle, *more: str) -> int:
    return main(["cloud", "deploy", "--ray", str(bundle.path), "--allow-unsigned", *more])


def test_without_ray_it_names_the_extra(
    sasrec_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert deploy(sasrec_bundle) == EXIT_FAILED
    assert "pip install 'tierline[ray]'" in capsys.readouterr().err


def test_an_unsigned_bundle_is_not_deployed(
    sasrec_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cloud", "deploy", "--ray", str(sasrec_bundle.path)]) == EXIT_REFUSED
    assert "is not signed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--replicas", "many"], "must be MIN or MIN:MAX"),
        (["--replicas", "4:2"], "at least 1 and at most the maximum"),
        (["--queue-delay", "0"], "must be positive"),
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--tls-cert", "chain.pem"], "give both --tls-cert and --tls-key"),
        (["--tls-client-ca", "ca.pem"], "needs --tls-cert and --tls-key"),
        (["--region", "EU"], "lower-case"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(
    sasrec_bundle: Bundle, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert deploy(sasrec_bundle, *more) == EXIT_FAILED
    assert sentence in capsys.readouterr().err


def test_where_to_deploy_is_said(sasrec_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cloud", "deploy", str(sasrec_bundle.path)]) == EXIT_FAILED
    assert "deploy --ray" in capsys.readouterr().err


def overview(status: str, message: str = "") -> Any:
    return SimpleNamespace(
        status=SimpleNamespace(value=status), message=message,
        deployments={"Replica": SimpleNamespace(message="3 of 4")},
    )  # fmt: skip


def test_it_stands_when_every_application_runs() -> None:
    plan = Plan(regions=("eu", "us"))
    runs = {"tierline-eu": overview("RUNNING"), "tierline-us": overview("RUNNING")}
    assert standing(plan, runs) == (True, "")


@pytest.mark.parametrize(
    "found",
    [{}, {"tierline": overview("DEPLOYING")}, {"tierline": overview("UNHEALTHY")}],
)
def test_until_then_it_does_not(found: dict[str, Any]) -> None:
    runs, why = standing(Plan(), found)
    assert not runs
    assert why.startswith("tierline: ")


def test_a_deployment_that_never_will_is_told() -> None:
    with pytest.raises(DeploymentFailed, match="3 of 4; what served before serves on"):
        standing(Plan(), {"tierline": overview("DEPLOY_FAILED")})


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1")],
)
def test_this_machines_proxy_is_asked(host: str, url: str, tmp_path: Path) -> None:
    assert Where(address="auto", host=host, port=1).url == url
