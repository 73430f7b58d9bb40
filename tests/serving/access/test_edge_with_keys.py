"""`tierline edge serve` with keys: the SDK comes in, an admin loads, and all is written down."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Served, running_edge

import tierline
from tierline.cli import EXIT_DONE, EXIT_FAILED, main
from tierline_serving.access.audit import verify
from tierline_serving.access.keyring import create_key, revoke_key
from tierline_serving.access.scopes import Scope
from tierline_serving.registry import Registry
from tierline_serving.signing import Trust

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "edge"))

import tiny_bundles

UNSIGNED = Trust(allow_unsigned=True)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("keyed")
    first = tiny_bundles.write_sequence(folder)
    Registry(folder / "registry").publish(first.path, trust=UNSIGNED)
    file = folder / "keys.json"
    create_key(file, frozenset(Scope), note="nobody")
    place = f"registry:{folder}/registry/ranker"
    with running_edge(folder, place, "--keys", str(file)) as served:
        yield served


def wait_for(served: Served, key: str, status: int) -> None:
    """Ask until the server knows of a change to its keys."""
    headers = {"Authorization": f"Bearer {key}"}
    served.process.send_signal(signal.SIGHUP)  # read the file at once, not within a second
    for _ in range(10_000):
        if served.ask("GET", "/v1/models", b"", headers).status == status:
            return
    raise AssertionError(f"the server never answered {status}")


def test_the_sdk_comes_in_with_a_key_and_not_without(keyed: Served) -> None:
    _, key = create_key(keyed.folder / "keys.json", frozenset({Scope.SCORE}))
    wait_for(keyed, key, 200)
    url = f"http://{keyed.address}"
    with tierline.Client(edge=[url], api_key=key, deadline=20.0) as client:
        answer = client.score("ranker", query={"history": [3]}, candidates=[5, 6])
    assert len(answer.scores) == 2
    with (
        tierline.Client(edge=[url], deadline=20.0) as stranger,
        pytest.raises(tierline.NotPermitted),
    ):
        stranger.score("ranker", query={"history": [3]}, candidates=[5, 6])


def test_a_promoted_bundle_is_loaded_and_the_lines_hold(keyed: Served) -> None:
    made, key = create_key(keyed.folder / "keys.json", frozenset({Scope.ADMIN, Scope.SCORE}))
    wait_for(keyed, key, 200)
    audit = keyed.folder / "keys.json.audit"
    second = tiny_bundles.write_sequence(keyed.folder, version="2")
    publish = ["registry", "publish", str(second.path), "--root", str(keyed.folder / "registry")]
    assert main([*publish, "--allow-unsigned", "--audit", str(audit)]) == EXIT_DONE
    headers = {"Authorization": f"Bearer {key}"}
    loaded = keyed.ask("POST", "/v2/repository/models/ranker/load", b"", headers)
    described = keyed.ask("GET", "/v1/models/ranker", b"", headers).json
    assert loaded.status == 200
    assert described["bundle"] == second.id  # type: ignore[index]
    prior = keyed.ask("GET", "/v1/models/ranker/prior", b"", headers)
    assert prior.headers["x-tierline-bundle"] == second.id
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(r["action"], r["actor"].partition(":")[0]) for r in records] == [
        ("registry.publish", "user"),
        ("model.load", "key"),
        ("model.load", "key"),
    ]
    assert records[-1]["actor"] == f"key:{made.id}"
    assert records[-1]["detail"] == {"outcome": "done", "bundle": second.id}
    assert verify(audit).lines == 3


def test_a_key_is_made_and_revoked_without_a_restart(keyed: Served) -> None:
    file = keyed.folder / "keys.json"
    made, key = create_key(file, frozenset({Scope.SCORE}))
    wait_for(keyed, key, 200)
    revoke_key(file, made.id)
    wait_for(keyed, key, 401)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "--keys or --tls-client-ca"),
        (["--keys", "nowhere.json"], "cannot read the key file nowhere.json"),
        (["--tls-cert", "cert.pem"], "give both --tls-cert and --tls-key"),
        (["--tls-cert", "none.pem", "--tls-key", "none.pem"], "there is no file none.pem"),
    ],
)
def test_access_that_cannot_be_had_is_refused_before_serving(
    keyed: Served, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    place = f"registry:{keyed.folder}/registry/ranker"
    assert main(["edge", "serve", place, "--allow-unsigned", *arguments]) == EXIT_FAILED
    assert sentence in capsys.readouterr().err
