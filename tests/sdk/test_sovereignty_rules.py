"""Which field rules are refused and how a file says them; what a missing module is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tierline
from tierline import FieldRule, Sovereignty
from tierline._config import Endpoint, Tier
from tierline._core.sovereignty import view
from tierline._toml import read_config
from tierline.wire import ScoreRequest

PUBLIC = Tier(
    name="public",
    kind="cloud",
    trust="public",
    region="us",
    endpoints=(Endpoint(url="http://p:1"),),
)
REQUEST = ScoreRequest(model="m", query={"user": np.array([42])})


def policy(*rules: FieldRule, secret: bytes = b"k" * 16) -> Sovereignty:
    return Sovereignty(fields=rules, default="allow", secret=secret)


def rule(name: str, action: str, **more: object) -> FieldRule:
    return FieldRule(name=name, action=action, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "", "action": "drop"}, "name"),
        ({"name": "query.", "action": "drop"}, "name"),
        ({"name": "call.key", "action": "drop"}, "name"),
        ({"name": "call.id", "action": "drop"}, "action"),
        ({"name": "user", "action": "encrypt"}, "action"),
        ({"name": "user", "action": "drop", "trust": "secret"}, "trust"),
        ({"name": "user", "action": "drop", "regions": ()}, "regions"),
        ({"name": "user", "action": "drop", "last": 3}, "last"),
        ({"name": "user", "action": "hash", "buckets": 0}, "buckets"),
        ({"name": "user", "action": "generalise"}, "action"),
        ({"name": "candidates.id", "action": "generalise", "last": 3}, "last"),
    ],
)
def test_a_wrong_rule_names_its_key(settings: dict[str, object], key: str) -> None:
    with pytest.raises(tierline.ConfigurationError) as wrong:
        FieldRule(**settings)  # type: ignore[arg-type]
    assert wrong.value.key == f"sovereignty.fields.{settings['name']}.{key}"


def test_what_becomes_of_other_fields_must_be_said() -> None:
    with pytest.raises(tierline.ConfigurationError) as missing:
        Sovereignty(fields=(rule("user", "drop"),))
    assert missing.value.key == "sovereignty.default"


def test_a_rule_that_can_never_be_reached_is_refused() -> None:
    with pytest.raises(tierline.ConfigurationError, match="never reached"):
        policy(rule("query.*", "drop"), rule("query.user", "allow", trust="private"))
    policy(rule("query.*", "drop"), rule("user", "allow"))  # candidates may have a user, too
    policy(rule("user", "drop", regions=("eu",)), rule("user", "allow", regions=("us",)))
    policy(rule("user", "drop", regions=("eu",)), rule("user", "allow"))
    with pytest.raises(tierline.ConfigurationError, match="never reached"):
        policy(rule("user", "drop", regions=("eu", "us")), rule("user", "allow", regions=("us",)))


def test_a_secret_is_long_and_never_shown() -> None:
    with pytest.raises(tierline.ConfigurationError) as short:
        policy(secret=b"short")
    assert short.value.key == "sovereignty.secret"
    assert "kkkk" not in repr(policy(rule("user", "hash")))


def test_without_a_secret_pseudonyms_last_as_long_as_the_process() -> None:
    drawn = [Sovereignty(fields=(rule("user", "hash"),), default="allow") for _ in range(2)]
    shown = [view(REQUEST, [one], PUBLIC) for one in drawn]
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[0].request.query["user"] == shown[1].request.query["user"]


TOML = """
[[tiers]]
name = "edge"
kind = "edge"
endpoints = ["http://10.0.0.1:8101"]

[[tiers]]
name = "public"
kind = "cloud"
trust = "public"
endpoints = ["https://cloud.example:443"]

[sovereignty]
default = "allow"
secret_env = "TIERLINE_TEST_SECRET"

[[sovereignty.fields]]
name = "query.user"
trust = "public"
action = "hash"
buckets = 1000

[[sovereignty.fields]]
name = "history"
trust = "public"
regions = ["us"]
action = "generalise"
last = 5
"""


def test_rules_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERLINE_TEST_SECRET", "0123456789abcdef")
    (tmp_path / "t.toml").write_text(TOML)
    read = read_config(tmp_path / "t.toml").sovereignty
    assert read.secret == b"0123456789abcdef"
    assert read.default == "allow"
    assert read.fields == (
        rule("query.user", "hash", trust="public", buckets=1000),
        rule("history", "generalise", trust="public", regions=("us",), last=5),
    )


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('default = "allow"\n', "", "sovereignty.default"),
        ("last = 5", "last = 5.5", "sovereignty.fields[1].last"),
        ("last = 5", "least = 5", "sovereignty.fields[1].least"),
        ('action = "hash"\n', "", "sovereignty.fields[0].action"),
        ('regions = ["us"]', 'regions = "us"', "sovereignty.fields[1].regions"),
        ("_SECRET", "_SECRET_THAT_IS_NOT_SET", "sovereignty.secret_env"),
        ('action = "hash"', 'action = "hush"', "sovereignty.fields.query.user.action"),
    ],
)
def test_a_wrong_file_names_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, key: str
) -> None:
    monkeypatch.setenv("TIERLINE_TEST_SECRET", "0123456789abcdef")
    (tmp_path / "t.toml").write_text(TOML.replace(old, new))
    with pytest.raises(tierline.ConfigurationError) as wrong:
        read_config(tmp_path / "t.toml")
    assert wrong.value.key == key


def test_the_example_of_the_page_is_read(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELD_SECRET", "0123456789abcdef")
    page = (repository / "docs" / "sovereignty.md").read_text("utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "t.toml").write_text(TOML.partition("[sovereignty]")[0] + example)
    read = read_config(tmp_path / "t.toml").sovereignty
    assert [(one.name, one.action) for one in read.fields] == [
        ("query.user", "hash"),
        ("history", "generalise"),
    ]


def test_a_missing_module_is_a_missing_extra_only_when_the_extra_would_bring_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = ["onnxruntime.capi"]

    class Point:
        def load(self) -> None:
            raise ModuleNotFoundError(f"No module named {missing[0]!r}", name=missing[0])

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (Point(),))
    with pytest.raises(tierline.MissingExtra, match=r"tierline\[edge\]"):
        tierline.Client(edge=["embedded:bundle"])
    missing[0] = "somebody_elses"
    with pytest.raises(ModuleNotFoundError, match="somebody_elses"):
        tierline.Client(edge=["embedded:bundle"])
