"""A real Ray: no call fails while a replica is killed, the bundle upgraded, replicas added."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloud_bundles
import numpy as np
import pytest
from ray_cluster import Deployment, cluster, free_port, load_on, until

from tierline.cli import EXIT_FAILED, main
from tierline.wire import ScoreRequest, decode_error, decode_reply, encode_request
from tierline_cloud.serve.scorer import load_scorer
from tierline_serving.bundle import Bundle

HAS_RAY = find_spec("ray") is not None

pytestmark = [
    pytest.mark.skipif(not HAS_RAY, reason="needs ray: docs/ray.md, constraints-ray.txt"),
    pytest.mark.nightly,
    pytest.mark.drill,
    # Ray's own: it warns of what it will change one day.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with cluster() as found:
        yield found


@pytest.fixture
def deployment(ray: Any) -> Iterator[Deployment]:
    from ray import serve

    yield Deployment(free_port())
    serve.shutdown()


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("newer")
    return cloud_bundles.write_sasrec(folder, version="2")


def test_one_deployment_stands_all_that_befalls_it(
    deployment: Deployment, sasrec_bundle: Bundle, newer: Bundle
) -> None:
    deployment.deploy(sasrec_bundle, "--replicas", "2")
    _answers_untouched(deployment, sasrec_bundle)

    with load_on(deployment.url) as load:
        load.wait_for(100)
        before = deployment.pids()
        assert len(before) == 2
        victim = deployment.kill_one()
        until(lambda: victim not in deployment.pids(), "Ray to notice")
        until(lambda: len(deployment.pids()) == 2, "another replica in its place")
        load.wait_for(200)
    load.say("a replica killed")
    assert load.failures == []

    with load_on(deployment.url) as load:
        load.wait_for(50)
        deployment.deploy(newer, "--replicas", "2")
        load.wait_for(100)
    load.say("a rolling upgrade")
    assert load.failures == []
    assert set(load.bundles) == {sasrec_bundle.id, newer.id}

    with load_on(deployment.url, callers=8) as load:
        # Any wait at all is too long: what is tested is that replicas come, not when they should.
        deployment.deploy(newer, "--replicas", "2:3", "--queue-delay", "1e-6", *_SOON)
        until(lambda: len(deployment.pids()) == 3, "a third replica")
        load.wait_for(100)
    load.say("scaling up")
    assert load.failures == []


def test_an_upgrade_that_does_not_load_leaves_the_old_bundle_answering(
    deployment: Deployment, sasrec_bundle: Bundle, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = cloud_bundles.write_own(tmp_path)
    deployment.deploy(sasrec_bundle, "--replicas", "2")
    with load_on(deployment.url) as load:
        load.wait_for(20)
        # Its code is not allowed: every new replica refuses it.
        arguments = ["cloud", "deploy", "--ray", str(own.path), "--allow-unsigned", "--cpus", "0.1"]
        arguments += ["--port", str(deployment.port), "--replicas", "2", "--patience", "120"]
        assert main(arguments) == EXIT_FAILED
        load.wait_for(50)
    load.say("an upgrade that does not load")
    assert "what served before serves on" in capsys.readouterr().err
    assert load.failures == []
    assert set(load.bundles) == {sasrec_bundle.id}


def test_a_region_is_served_by_its_own_replicas(
    ray: Any, sasrec_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray import serve

    deployment = Deployment(free_port(), regions=("eu",))
    try:
        deployment.deploy(sasrec_bundle, "--replicas", "1")
        _answers_untouched(deployment, sasrec_bundle)
        with load_on(deployment.url) as load:
            load.wait_for(50)
        assert load.failures == []
        nowhere = ["cloud", "deploy", "--ray", str(sasrec_bundle.path), "--allow-unsigned"]
        assert main([*nowhere, "--region", "us", "--port", str(deployment.port)]) == EXIT_FAILED
        assert "no node of the cluster is labelled ray.io/region=us" in capsys.readouterr().err
        flat = main([*nowhere, "--port", str(deployment.port)])
        assert (flat, "tierline-eu" in capsys.readouterr().err) == (EXIT_FAILED, True)
    finally:
        serve.shutdown()


_SOON = ("--upscale-delay", "1")


def _answers_untouched(deployment: Deployment, bundle: Bundle) -> None:
    """Frames and headers are those of a node, through Ray's proxy and back."""
    request = ScoreRequest(model="ranker", query={"history": np.array([5, 6])}, k=4)
    (expected,) = load_scorer(bundle, threads=1).score([request])
    body = b"".join(encode_request(request))
    status, headers, answer = _post(deployment, body, "5000.0")
    assert status == 200
    reply = decode_reply(answer)
    assert reply.scores.tobytes() == expected.scores.tobytes()
    assert reply.bundle == bundle.id
    named = [name.lower() for name, _ in headers]
    assert named.count("x-request-id") == 1
    assert {"x-tierline-queue-ms", "x-tierline-compute-ms", "x-tierline-bundle"} <= set(named)
    status, _, answer = _post(deployment, body, "soon")
    assert (status, decode_error(answer).code) == (400, "bad_request")
    status, _, answer = _post(deployment, body, "0.001")
    assert (status, decode_error(answer).code) == (504, "deadline_exceeded")


def _post(
    deployment: Deployment, body: bytes, deadline: str
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", deployment.port, timeout=60.0)
    try:
        headers = {
            "content-type": "application/x-tierline", "x-request-id": "abc",
            "x-tierline-deadline-ms": deadline,
        }  # fmt: skip
        connection.request("POST", "/v1/score", body, headers)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()
