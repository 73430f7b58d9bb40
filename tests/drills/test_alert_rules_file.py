"""The Prometheus rules: each is whole, and every metric of ours that they name is exported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tierline_serving.metrics import Metrics

OURS = re.compile(r"\btierline_[a-z_]+\b")
SUFFIXES = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def rules(repository: Path) -> list[dict[str, Any]]:
    text = (repository / "deploy/alerts/tierline.rules.yml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    text = Metrics().render(ready=True, models=[]).decode()
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | {"tierline_requests_total"}


def test_every_rule_says_how_bad_it_is_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["response"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_every_metric_of_ours_in_a_rule_is_exported(rules: list[dict[str, Any]]) -> None:
    named = {name for rule in rules for name in OURS.findall(rule["expr"])}
    bare = {next((n.removesuffix(s) for s in SUFFIXES if n.endswith(s)), n) for n in named}
    assert bare
    assert bare <= exported()
