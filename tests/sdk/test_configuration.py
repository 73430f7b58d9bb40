"""A configuration is right as a whole, or one error names the key that is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tierline
from tierline._golden import read_golden
from tierline._toml import read_config
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.golden import pack_replies, pack_requests

WHOLE = """
[client]
deadline = 0.1
transport = "httpx"
zone = "a"

[[tiers]]
name = "edge"
kind = "edge"
region = "eu-west"
balancing = "weighted"
endpoints = ["http://10.0.0.1:8101", { url = "unix:///run/tierline.sock", weight = 2, zone = "a" }]

[[tiers]]
name = "private"
kind = "cloud"
endpoints = ["https://cloud.internal:8201"]

[[tiers]]
name = "public"
kind = "cloud"
trust = "public"
endpoints = ["https://cloud.example:443"]

[retry]
attempts = 3

[hedge]
after = 0.02

[timeout]
floor = 0.02

[breaker]
consecutive = 4
slow_multiple = 8

[ejection]
panic = "fail"

[limiter]
initial = 32

[escalation]
threshold = 0.4
budget = 0.1

[health]
interval = 5
golden = "bundles/ranker"

[priors]
ranker = "prior.npy"
"""


def golden_bundle(folder: Path) -> None:
    """A bundle's folder, as far as golden requests go."""
    folder.mkdir(parents=True)
    golden = {"requests": "asked.bin", "replies": "answered.bin", "tolerance": 0.01}
    manifest = {"version": "7", "golden": golden}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    requests = [ScoreRequest("ranker", {"history": np.array([i])}, k=2) for i in (3, 4)]
    scores, items = np.array([2, 1], np.float32), np.array([5, 6])
    replies = [ScoreReply("ranker", "-", scores * i, items) for i in (3, 4)]
    (folder / "asked.bin").write_bytes(pack_requests(requests))
    (folder / "answered.bin").write_bytes(pack_replies(replies))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "prior.npy", np.arange(5, dtype=np.float32))
    golden_bundle(tmp_path / "bundles" / "ranker")
    place = tmp_path / "tierline.toml"
    place.write_text(WHOLE)
    return place


def test_a_whole_file_configures_a_client(file: Path) -> None:
    config = read_config(file)
    assert [tier.name for tier in config.tiers] == ["edge", "private", "public"]
    assert config.tiers[0].balancing is tierline.Balancing.WEIGHTED
    assert config.tiers[0].endpoints[1].weight == 2.0
    assert config.hedge is not None
    assert config.health is not None
    assert (config.zone, config.tiers[0].endpoints[1].zone) == ("a", "a")
    assert (config.breaker.slow_multiple, config.ejection.panic) == (8, "fail")
    assert (config.limiter.initial, config.timeout.floor) == (32, 0.02)
    assert config.health.golden == file.parent / "bundles/ranker"
    assert (config.deadline, config.retry.attempts, config.hedge.after) == (0.1, 3, 0.02)
    with tierline.Client.from_toml(file) as client:
        assert client.config == config


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("attempts = 3", "atempts = 3", "retry.atempts"),
        ("attempts = 3", 'attempts = "3"', "retry.attempts"),
        ("attempts = 3", "attempts = true", "retry.attempts"),
        ("attempts = 3", "attempts = 0", "retry.attempts"),
        ("deadline = 0.1", "deadline = -1", "client.deadline"),
        ("after = 0.02", "after = 0.5", "hedge.after"),
        ("[breaker]", "[braker]", "braker"),
        ('balancing = "weighted"', 'balancing = "best"', "tiers[0].balancing"),
        ('kind = "edge"', 'kind = "fog"', "tiers.edge.kind"),
        ('trust = "public"', 'trust = "none"', "tiers.public.trust"),
        ('name = "private"', 'name = "edge"', "tiers"),
        ('"http://10.0.0.1:8101"', '"ftp://10.0.0.1"', "endpoints.url"),
        ("weight = 2", "weight = 0", "endpoints.weight"),
        ("weight = 2", "wait = 2", "tiers[0].endpoints[1].wait"),
        ("threshold = 0.4", "threshold = 1.4", "escalation.threshold"),
        ('transport = "httpx"', 'transport = "carrier pigeon"', "client.transport"),
        ('transport = "httpx"', 'api_key_env = "NO_SUCH_VARIABLE_SET"', "client.api_key_env"),
        ('kind = "edge"', "", "tiers[0].kind"),
        ('zone = "a"', 'zone = "b"', "client.zone"),
        ("floor = 0.02", "floor = 0", "timeout.floor"),
        ("floor = 0.02", "reserve = 0.2", "timeout.reserve"),
        ("slow_multiple = 8", "slow_multiple = 1", "breaker.slow_multiple"),
        ("slow_multiple = 8", "slow_rate = 0", "breaker.slow_rate"),
        ("slow_multiple = 8", "slow_share = 1.1", "breaker.slow_share"),
        ("slow_multiple = 8", "open_for = 60", "breaker.open_for"),
        ('panic = "fail"', 'panic = "pray"', "ejection.panic"),
        ('panic = "fail"', "panic = 1", "ejection.panic"),
        ('panic = "fail"', "max_share = 2", "ejection.max_share"),
        ('panic = "fail"', "jitter = 1", "ejection.jitter"),
        ("initial = 32", "initial = 500", "limiter.initial"),
        ("initial = 32", "tolerance = 0.5", "limiter.tolerance"),
        ("budget = 0.1", "ease_below = 1", "escalation.ease_below"),
        ("interval = 5", "interval = 0.5", "health.timeout"),
        ("interval = 5", "down_after = 0", "health.down_after"),
    ],
)
def test_a_mistake_is_one_error_naming_its_key(file: Path, old: str, new: str, key: str) -> None:
    assert old in WHOLE
    file.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(tierline.ConfigurationError) as caught:
        read_config(file)
    assert caught.value.key == key
    assert key in str(caught.value)


def test_private_cloud_must_come_before_public(file: Path) -> None:
    swapped = WHOLE.replace('trust = "public"', "").replace(
        'name = "private"', 'name = "private"\ntrust = "public"'
    )
    file.write_text(swapped)
    with pytest.raises(tierline.ConfigurationError, match="private cloud tiers come before"):
        read_config(file)


def test_a_missing_or_broken_file_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(tierline.ConfigurationError, match="there is no file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[client")
    with pytest.raises(tierline.ConfigurationError, match="is not TOML"):
        read_config(tmp_path / "broken.toml")


def test_an_api_key_is_read_from_the_environment_and_never_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "very-secret")
    file.write_text(WHOLE.replace('transport = "httpx"', 'api_key_env = "SHOP_KEY"'))
    config = read_config(file)
    assert config.api_key == "very-secret"
    assert "very-secret" not in repr(config)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200), st.integers(0, len(WHOLE) - 1), st.integers(0, 40))
def test_a_mangled_file_is_a_configuration_or_a_configuration_error(
    file: Path, junk: bytes, start: int, length: int
) -> None:
    text = WHOLE.encode()
    file.write_bytes(text[:start] + junk + text[start + length :])
    with contextlib.suppress(tierline.ConfigurationError):
        read_config(file)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"query": [1, 2]}, "query must map names to arrays"),
        ({"query": {"history": ["a"]}}, "must hold numbers"),
        ({"candidates": [[1.0, 2.0]]}, "candidates must be item ids"),
        ({"candidates": {"a": np.zeros(3), "b": np.zeros(4)}}, "same first axis"),
        ({"deadline": 0.0}, "deadline must be a positive number"),
        ({"deadline": float("inf")}, "deadline must be a positive number"),
        ({"deadline": float("nan")}, "deadline must be a positive number"),
        ({"mode": "cheapest"}, "mode must be one of"),
        ({"criticality": "vital"}, "criticality must be one of"),
    ],
)
def test_a_wrong_call_is_refused_with_a_sentence(options: dict[str, object], sentence: str) -> None:
    call: dict[str, object] = {"query": {"history": [1]}, "candidates": [1, 2], **options}
    with (
        tierline.Client(edge=["http://127.0.0.1:9"]) as client,
        pytest.raises(tierline.BadRequest, match=sentence),
    ):
        client.score("ranker", **call)  # type: ignore[arg-type]


def test_an_unknown_way_of_balancing_is_a_configuration_error() -> None:
    with pytest.raises(tierline.ConfigurationError, match="must be one of"):
        tierline.Client(edge=["http://edge:1"], balancing="fastest")


def test_golden_requests_are_read_with_the_replies_their_bundle_must_give(file: Path) -> None:
    folder = file.parent / "bundles" / "ranker"
    [one, other] = read_golden(folder)
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]
    assert one.reply.bundle == f"7@{digest}"
    assert other.request.query["history"].tolist() == [4]
    assert other.reply.scores.tolist() == [8, 4]
    assert one.tolerance == 0.01


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"{}"),
        ("manifest.json", b"not json"),
        ("manifest.json", b'{"version": "7", "golden": {"requests": "x", "replies": "y"}}'),
        ("asked.bin", b"\xff" * 9),
        ("answered.bin", b"\x04" + b"\0" * 7 + b"junk"),
    ],
)
def test_a_bundle_without_readable_golden_requests_is_refused(
    file: Path, name: str, content: bytes
) -> None:
    (file.parent / "bundles" / "ranker" / name).write_bytes(content)
    with pytest.raises(tierline.ConfigurationError) as caught:
        tierline.Client.from_toml(file)
    assert caught.value.key == "health.golden"


def test_a_bare_string_is_not_a_list_of_addresses() -> None:
    for tier in ("edge", "cloud"):
        with pytest.raises(tierline.ConfigurationError, match="must be a list of addresses") as bad:
            tierline.Client(**{tier: "http://127.0.0.1:9"})  # type: ignore[arg-type]
        assert bad.value.key == tier


def test_a_client_without_endpoints_is_refused() -> None:
    with pytest.raises(tierline.ConfigurationError, match="at least one tier"):
        tierline.Client()


def test_a_mode_that_follows_the_budget_is_configured_in_its_table(tmp_path: Path) -> None:
    file = tmp_path / "tierline.toml"
    table = 'mode = "quality_first"\nbudget = 0.1\ncap = 0.25\nshadow = 0.02\nstep = 0.02'
    before, _, _ = WHOLE.partition("[escalation]")
    file.write_text(f"{before}[escalation]\n{table}\n")
    policy = read_config(file).escalation
    assert (policy.mode, policy.ratio, policy.shadow) == ("quality_first", 0.25, 0.02)
    assert policy.allowance == pytest.approx((1 + 2 * 0.02) / 0.02 + 1)
    for wrong, key in (
        ('mode = "cheap"', "escalation.mode"),
        ("mode = 3", "escalation.mode"),
        ('mode = "budget_first"\nthreshold = 0.5', "escalation.threshold"),
        ("cap = 0.5", "escalation.cap"),
    ):
        file.write_text(f"{before}[escalation]\n{wrong}\n")
        with pytest.raises(tierline.ConfigurationError, match=key):
            read_config(file)
