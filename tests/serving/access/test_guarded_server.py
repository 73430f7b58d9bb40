"""A server with access control in a process of its own: keys, loads that are audited, TLS."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from processes import Answered, Served, running

from tierline_serving.access.audit import verify
from tierline_serving.access.keyring import create_key
from tierline_serving.access.scopes import Scope

TASTE = "/v2/models/taste"


@dataclass(frozen=True)
class Guarded:
    """A guarded server and one key of each scope."""

    served: Served
    keys: dict[Scope, str] = field(repr=False)
    audit: Path

    def ask(self, method: str, path: str, scope: Scope | None, body: object = b"") -> Answered:
        headers = {} if scope is None else {"Authorization": f"Bearer {self.keys[scope]}"}
        return self.served.ask(method, path, body, headers)

    def repository(self, change: str, model: str, body: object = b"") -> Answered:
        return self.ask("POST", f"/v2/repository/models/{model}/{change}", Scope.ADMIN, body)

    def infer(self) -> Answered:
        user = {"name": "user", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
        item = {"name": "item", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
        return self.ask("POST", f"{TASTE}/infer", Scope.SCORE, {"inputs": [user, item]})

    def version(self) -> str:
        document = self.infer().json
        assert isinstance(document, dict)
        return str(document["model_version"]).partition("@")[0]

    def audited(self) -> list[tuple[str, str, str]]:
        lines = self.audit.read_text().splitlines() if self.audit.exists() else []
        records = [json.loads(line) for line in lines]
        return [(r["action"], r["subject"], r["detail"]["outcome"]) for r in records]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file, audit = folder / "keys.json", folder / "audit"
    keys = {scope: create_key(file, frozenset({scope}))[1] for scope in Scope}
    with running(folder, keys=str(file), audit=str(audit)) as served:
        yield Guarded(served, keys, audit)


@pytest.mark.parametrize(
    ("method", "path", "scope", "status"),
    [
        ("GET", "/livez", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/v2/health/ready", None, 200),
        ("GET", "/v1/models", None, 401),
        ("GET", "/v1/models", Scope.SCORE, 200),
        ("GET", "/metrics", None, 401),
        ("GET", "/metrics", Scope.SCORE, 403),
        ("GET", "/metrics", Scope.METRICS, 200),
        ("POST", "/v1/score", None, 401),
        ("POST", "/v1/score", Scope.METRICS, 403),
        ("POST", "/v1/score", Scope.SCORE, 400),
        ("POST", "/rerank", None, 401),
        ("POST", f"{TASTE}/infer", None, 401),
        ("POST", "/v2/repository/index", Scope.SCORE, 403),
        ("POST", "/v2/repository/index", Scope.ADMIN, 200),
        ("POST", "/v2/repository/models/taste/unload", Scope.SCORE, 403),
        ("POST", "/v2/repository/models/taste/unload/", Scope.SCORE, 403),
    ],
)
def test_each_path_wants_its_key(
    guarded: Guarded, method: str, path: str, scope: Scope | None, status: int
) -> None:
    answered = guarded.ask(method, path, scope)
    assert answered.status == status
    assert ("www-authenticate" in answered.headers) == (status == 401)


def test_a_model_is_unloaded_and_loaded_and_each_leaves_lines(guarded: Guarded) -> None:
    before = len(guarded.audited())
    assert guarded.repository("unload", "taste").status == 200
    assert guarded.infer().status == 404
    index = guarded.ask("POST", "/v2/repository/index", Scope.ADMIN).json
    rows = {row["name"]: row for row in index}  # type: ignore[attr-defined]
    assert rows["taste"] == {"name": "taste", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert guarded.repository("load", "taste").status == 200
    assert guarded.infer().status == 200
    assert guarded.audited()[before:] == [
        ("model.unload", "taste", "asked"),
        ("model.unload", "taste", "done"),
        ("model.load", "taste", "asked"),
        ("model.load", "taste", "done"),
    ]
    assert verify(guarded.audit).lines == len(guarded.audited())
    text = guarded.audit.read_text()
    assert not any(key.split("_", 2)[2] in text for key in guarded.keys.values())


def test_what_cannot_be_audited_is_not_done(guarded: Guarded) -> None:
    kept = guarded.audit.with_name("kept")
    guarded.repository("load", "taste")
    guarded.audit.rename(kept)
    guarded.audit.mkdir()
    try:
        answered = guarded.repository("unload", "taste")
    finally:
        guarded.audit.rmdir()
        kept.rename(guarded.audit)
    assert answered.status == 503
    assert "nothing was done, because it could not be audited" in answered.body.decode()
    assert guarded.infer().status == 200
    assert verify(guarded.audit).lines == len(guarded.audited())


def test_loading_takes_the_bundle_its_source_holds_now(guarded: Guarded) -> None:
    marker = guarded.served.folder / "second"
    assert guarded.version() == "1"
    marker.touch()
    try:
        assert guarded.repository("load", "taste").status == 200
        assert guarded.version() == "2"
    finally:
        marker.unlink()
    assert guarded.repository("load", "taste").status == 200
    assert guarded.version() == "1"


def test_no_call_fails_while_bundles_are_swapped(guarded: Guarded) -> None:
    marker = guarded.served.folder / "second"
    statuses: list[int] = []
    is_over = threading.Event()

    def ask_on() -> None:
        while not is_over.is_set():
            statuses.append(guarded.infer().status)

    callers = [threading.Thread(target=ask_on) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for swap in range(8):
            marker.touch() if swap % 2 == 0 else marker.unlink()
            assert guarded.repository("load", "taste").status == 200
            assert guarded.version() == ("2" if swap % 2 == 0 else "1")
    finally:
        is_over.set()
        for caller in callers:
            caller.join()
        marker.unlink(missing_ok=True)
    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_a_roll_back_is_one_request_that_answers_at_once_and_leaves_lines(
    guarded: Guarded,
) -> None:
    marker = guarded.served.folder / "second"
    marker.touch()
    try:
        assert guarded.repository("load", "taste").status == 200
    finally:
        marker.unlink()
    rolled = guarded.repository("rollback", "taste")
    document = rolled.json
    assert isinstance(document, dict)
    assert (rolled.status, document["version"].partition("@")[0]) == (200, "1")
    assert guarded.version() == "1"
    assert guarded.ask("GET", f"{TASTE}/versions/2", Scope.SCORE).status == 200
    assert guarded.audited()[-2:] == [
        ("model.roll-back", "taste", "asked"),
        ("model.roll-back", "taste", "done"),
    ]


def test_a_label_moves_to_a_loaded_bundle_only_and_answers_by_its_name(guarded: Guarded) -> None:
    versions = guarded.ask("GET", TASTE, Scope.SCORE).json["versions"]  # type: ignore[index]
    assert guarded.ask("GET", f"{TASTE}/labels/canary", Scope.SCORE).status == 404
    moved = guarded.repository("labels/canary", "taste", {"version": versions[-1]})
    assert moved.json == {"name": "taste", "version": versions[-1]}
    named = guarded.ask("GET", f"{TASTE}/labels/canary/ready", Scope.SCORE)
    assert named.status == 200
    refused = guarded.repository("labels/canary", "taste", {"version": "99"})
    assert (refused.status, "not loaded" in json.loads(refused.body)["error"]) == (400, True)
    assert guarded.repository("labels/canary", "taste").status == 400
    assert guarded.ask("POST", "/v2/repository/models/taste/rollback", Scope.SCORE).status == 403


def test_a_failed_load_changes_nothing_and_says_why(guarded: Guarded) -> None:
    marker = guarded.served.folder / "broken"
    marker.touch()
    try:
        answered = guarded.repository("load", "taste")
    finally:
        marker.unlink()
    assert answered.status == 500
    assert "the bundle is broken" in json.loads(answered.body)["error"]
    assert guarded.infer().status == 200
    assert guarded.audited()[-1] == ("model.load", "taste", "failed")


@pytest.mark.parametrize(
    ("model", "body", "status", "sentence"),
    [
        ("nobody", b"", 404, "started without a model 'nobody'"),
        ("sum_int8", b"", 400, "without a source to load 'sum_int8' from"),
        ("taste", {"parameters": {"config": "{}"}}, 400, "from its own source only"),
        ("taste", {"parameters": {"file:1/model.onnx": "QQ=="}}, 400, "from its own source only"),
        ("taste", {"parameters": []}, 400, "must be a JSON object"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    guarded: Guarded, model: str, body: object, status: int, sentence: str
) -> None:
    answered = guarded.repository("load", model, body)
    assert answered.status == status
    assert sentence in json.loads(answered.body)["error"]


@dataclass(frozen=True)
class Papers:
    """An authority, and the files of a server it vouches for."""

    authority: trustme.CA
    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Papers:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        server = authority.issue_cert("127.0.0.1")
        server.private_key_pem.write_to_path(str(folder / "key.pem"))
        server.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        return cls(authority, folder)

    def settings(self) -> dict[str, str]:
        return {
            "certificate": str(self.folder / "cert.pem"),
            "key": str(self.folder / "key.pem"),
            "client_ca": str(self.folder / "ca.pem"),
        }


def asked_over_tls(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def test_mutual_tls_lets_in_who_the_authority_vouches_for(tmp_path: Path) -> None:
    papers = Papers.write(tmp_path)
    with running(tmp_path, tls=papers.settings()) as served:
        stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            asked_over_tls(served.port, stranger)
        known = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        papers.authority.issue_cert("client.test").configure_cert(known)
        assert asked_over_tls(served.port, known) == 200
        impostor = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        trustme.CA().issue_cert("client.test").configure_cert(impostor)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            asked_over_tls(served.port, impostor)
