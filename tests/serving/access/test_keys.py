"""Keys: nothing of a secret is kept, a changed file is noticed, scopes and rates hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import ConfigurationError
from tierline.cli import EXIT_DONE, EXIT_FAILED, main
from tierline_serving.access.gate import Gate
from tierline_serving.access.keyring import LOOK_EVERY, Keyring, create_key, read_keys, revoke_key
from tierline_serving.access.keys import KeyBook
from tierline_serving.access.rate import RateLimit
from tierline_serving.access.scopes import Scope, needed_scope
from tierline_serving.front.exchange import Refused

SCORE = frozenset({Scope.SCORE})


class Clock:
    """A clock the test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


def admit(gate: Gate, token: str, path: str = "/v1/score") -> str | None:
    caller = gate.admit(path, path, bearer(token))
    return None if caller is None else caller.key_id


def refusal(gate: Gate, headers: list[tuple[bytes, bytes]], path: str = "/v1/score") -> Refused:
    with pytest.raises(Refused) as refused:
        gate.admit(path, path, headers)
    return refused.value


def test_the_file_holds_nothing_a_key_could_be_made_of(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, token = create_key(path, SCORE, note="shop")
    secret = token.rpartition(f"{key.id}_")[2]
    assert len(secret) >= 43
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in repr(key)
    assert key.digest not in repr(key)


def test_a_good_key_is_let_in_and_any_other_is_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, token = create_key(path, SCORE)
    other, _ = create_key(path, SCORE)
    gate = Gate(Keyring(path))
    assert admit(gate, token) == key.id
    swapped = token.replace(key.id, other.id)
    wrong = [token[:-1], token + "x", swapped, "", "tlk__", "é", "x" * 10_000]
    assert [refusal(gate, bearer(each)).status for each in wrong[:5]] == [401] * 5
    assert refusal(gate, bearer("x" * 10_000)).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"\xff\xfe")],
    ],
)
def test_without_a_bearer_key_the_answer_asks_for_one(
    tmp_path: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    path = tmp_path / "keys.json"
    create_key(path, SCORE)
    refused = refusal(Gate(Keyring(path)), headers)
    assert (refused.status, refused.error.code) == (401, "unauthenticated")
    assert (b"www-authenticate", b"Bearer") in refused.headers


def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, token = create_key(path, SCORE)
    assert refusal(Gate(Keyring(path)), bearer(token) * 2).status == 401


def test_a_refusal_quotes_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, token = create_key(path, SCORE)
    gate = Gate(Keyring(path))
    secret = token.split("_", 2)[2]  # a secret may hold more of them
    for refused in (
        refusal(gate, bearer(token + "x")),
        refusal(gate, bearer(token), "/metrics"),
    ):
        assert secret not in refused.error.message


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/livez", None),
        ("/readyz", None),
        ("/v2/health/live", None),
        ("/v2/health/ready", None),
        ("/v1/score", Scope.SCORE),
        ("/v1/models", Scope.SCORE),
        ("/metadata", Scope.SCORE),
        ("/rerank", Scope.SCORE),
        ("/v2/rerank", Scope.SCORE),
        ("/v2", Scope.SCORE),
        ("/v2/models/m/infer", Scope.SCORE),
        ("/v2/models/m/ready", Scope.SCORE),
        ("/metrics", Scope.METRICS),
        ("/v2/models/stats", Scope.METRICS),
        ("/v2/models/m/versions/1/stats", Scope.METRICS),
        ("/v2/repository/index", Scope.ADMIN),
        ("/v2/repository/models/m/load", Scope.ADMIN),
        ("/v2/repository/models/m/unload", Scope.ADMIN),
        ("/nowhere", Scope.SCORE),
        ("/livez/", Scope.SCORE),
    ],
)
def test_every_path_needs_its_scope(path: str, scope: Scope | None) -> None:
    assert needed_scope(path, path) is scope


@pytest.mark.parametrize(
    "raw",
    [
        "/v2/repository/models/m/load/",
        "/v2/repository/models/m%2Fn/load",
        "/%762/repository/models/m/load",
        "//v2/repository/models/m/load",
        "/v2/repository/models/m/%6coad",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_scope_it_needs(raw: str) -> None:
    from urllib.parse import unquote

    from tierline_serving.oip.paths import target_of

    path = unquote(raw)
    reaches = path.startswith("/v2") and target_of(raw) is not None
    assert needed_scope(path, raw) is (Scope.ADMIN if reaches else Scope.SCORE)


def test_each_scope_is_granted_by_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, admin = create_key(path, frozenset({Scope.ADMIN}))
    gate = Gate(Keyring(path))
    assert admit(gate, admin, "/v2/repository/index") is not None
    refused = refusal(gate, bearer(admin))
    assert (refused.status, refused.error.code) == (403, "not_permitted")
    assert "lacks the scope 'score'" in refused.error.message


def test_keys_made_and_revoked_count_without_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    first, old = create_key(path, SCORE)
    gate = Gate(Keyring(path, clock=clock), clock=clock)
    _, new = create_key(path, SCORE)
    revoke_key(path, first.id)
    assert admit(gate, old) == first.id  # not looked at again yet
    clock.now += LOOK_EVERY
    assert refusal(gate, bearer(old)).status == 401
    assert admit(gate, new) is not None


@pytest.mark.parametrize("damage", ["{", '{"format": 2}', '{"format": 1, "keys": [1]}'])
def test_a_damaged_file_changes_nothing_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    key, token = create_key(path, SCORE)
    gate = Gate(Keyring(path, clock=clock), clock=clock)
    path.write_text(damage)
    clock.now += LOOK_EVERY
    with caplog.at_level(logging.ERROR, "tierline.access"):
        assert admit(gate, token) == key.id
    assert "keys kept as they were" in caplog.text


def test_a_file_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_key(path, SCORE)
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="chmod it 600"):
        Keyring(path)


def test_a_key_may_ask_no_more_often_than_its_rate(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    _, token = create_key(path, SCORE, rate=2.0, burst=3)
    _, free = create_key(path, SCORE)
    gate = Gate(Keyring(path, clock=clock), clock=clock)
    assert all(admit(gate, token) for _ in range(3))
    refused = refusal(gate, bearer(token))
    assert (refused.status, refused.error.retry_after) == (429, 0.5)
    assert admit(gate, free) is not None
    clock.now += 0.5
    assert admit(gate, token) is not None


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.floats(-1.0, 5.0), max_size=60),
)
def test_a_rate_is_never_exceeded_whatever_the_clock_does(
    rate: float, burst: int, steps: list[float]
) -> None:
    now = latest = 10.0
    limit = RateLimit(rate, burst, now)
    granted = 0
    for step in steps:
        now += step
        latest = max(latest, now)
        granted += limit.take(now) is None
    assert granted <= burst + (latest - 10.0) * rate + 1e-6


@settings(max_examples=200)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_key_file_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        book = KeyBook.from_bytes(data)
    except ConfigurationError:
        return
    assert len(book) == 0


def test_a_book_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_key(path, frozenset(Scope), rate=1.5, burst=4, note="näh")
    book = read_keys(path)
    assert KeyBook.from_bytes(book.to_bytes()).listed() == book.listed()


def test_the_commands_make_list_and_revoke_keys_and_leave_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "keys.json")
    assert main(["keys", "create", "--file", path, "--scope", "score", "--json"]) == EXIT_DONE
    made = json.loads(capsys.readouterr().out)
    assert main(["keys", "list", "--file", path]) == EXIT_DONE
    listed = capsys.readouterr().out
    assert made["id"] in listed
    assert made["key"] not in listed
    assert main(["keys", "revoke", made["id"], "--file", path]) == EXIT_DONE
    assert main(["keys", "revoke", made["id"], "--file", path]) == EXIT_FAILED
    capsys.readouterr()
    assert main(["audit", "verify", path + ".audit", "--json"]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["lines"] == 2
    assert made["key"] not in Path(path + ".audit").read_text()
