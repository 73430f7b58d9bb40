"""Experiment files: stock ones are read, ours too, what is wrong is named by place."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_drills.errors import BadExperiment
from tierline_drills.experiment import parse_experiment, read_experiment
from tierline_drills.tolerances import found_at, tolerated

PYTHON = {"type": "python", "module": "math", "func": "sqrt", "arguments": {"x": "${four}"}}
STOCK: dict[str, Any] = {
    "version": "1.0.0",
    "title": "Square roots survive",
    "description": "A stock experiment.",
    "tags": ["math"],
    "contributions": {"reliability": "high"},
    "configuration": {"four": 4, "shell": {"type": "env", "key": "NO_SUCH", "default": "sh"}},
    "steady-state-hypothesis": {
        "title": "roots are right",
        "probes": [{"type": "probe", "name": "root", "tolerance": 2.0, "provider": PYTHON}],
    },
    "method": [
        {"type": "action", "name": "again", "provider": PYTHON, "pauses": {"after": 1}},
        {"type": "probe", "name": "look", "provider": PYTHON, "background": True},
    ],
    "rollbacks": [],
}


def test_a_stock_experiment_is_read() -> None:
    found = parse_experiment(STOCK)
    assert (found.title, found.hypothesis) == ("Square roots survive", "roots are right")
    assert found.method[0].after == 1.0
    assert found.method[1].background is True
    assert found.strategy == "always"


def test_a_variable_alone_keeps_its_type_and_in_text_becomes_text() -> None:
    changed = {**STOCK, "title": "root of ${four} in ${shell}"}
    found = parse_experiment(changed)
    assert found.probes[0].provider["arguments"] == {"x": 4}
    assert found.title == "root of 4 in sh"
    assert parse_experiment(STOCK, {"four": 9}).probes[0].provider["arguments"] == {"x": 9}


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    as_json, as_yaml = tmp_path / "one.json", tmp_path / "one.yaml"
    as_json.write_text(json.dumps(STOCK))
    as_yaml.write_text(json.dumps(STOCK, indent=1))  # YAML holds JSON
    assert read_experiment(as_json) == read_experiment(as_yaml)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"title": 3}, "title must be a sentence"),
        ({"title": ""}, "title must be a sentence"),
        ({"description": " "}, "description must be a sentence"),
        ({"title": "${four}"}, "title must be a sentence"),
        ({"method": [{"type": "action"}]}, r"method\[0\].name"),
        ({"method": [{"name": "x", "provider": {"type": "ssh"}}]}, "provider.type must be one of"),
        ({"method": [{"name": "x", "provider": {"type": "http"}}]}, "provider.url must be text"),
        ({"configuration": {}}, r"\$\{four\} is not in the configuration"),
        ({"rollbacks": [{"type": "probe", "name": "x", "provider": PYTHON}]}, "must be action"),
        ({"extensions": [{"name": "tierline", "wishes": 1}]}, "does not know wishes"),
        ({"extensions": [{"name": "tierline", "bars": [{"figure": "x"}]}]}, "a bar is a figure"),
        ({"runtime": {"rollbacks": {"strategy": "perhaps"}}}, "strategy must be one of"),
        ({"controls": [{"provider": {"type": "http"}}]}, r"controls\[0\].provider.type"),
        ({"configuration": {"four": {"type": "env", "key": "NO_SUCH"}}}, "NO_SUCH is not set"),
    ],
)
def test_what_is_wrong_is_named_by_place(change: dict[str, Any], why: str) -> None:
    with pytest.raises(BadExperiment, match=why):
        parse_experiment({**STOCK, **change})


def test_a_probe_of_the_hypothesis_needs_a_tolerance() -> None:
    probes = [{"type": "probe", "name": "root", "provider": PYTHON}]
    with pytest.raises(BadExperiment, match="needs a tolerance"):
        parse_experiment({**STOCK, "steady-state-hypothesis": {"title": "", "probes": probes}})


def test_a_negative_control_changes_only_what_it_names() -> None:
    own = {
        "name": "tierline",
        "load": {"rate": 5, "retries": 3},
        "negative": {"load": {"retries": 0}},
    }
    control = {"name": "c", "provider": {"type": "python", "module": "math"}}
    found = parse_experiment({**STOCK, "extensions": [own], "controls": [control]}).negative()
    assert found.own["load"] == {"rate": 5, "retries": 0}
    assert found.controls[0].arguments["negative"] is True


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
names = st.sampled_from([*STOCK, "extensions", "runtime", "controls"])


@given(st.dictionaries(names, json_values, max_size=4))
def test_any_file_is_an_experiment_or_refused_with_a_sentence(change: dict[str, Any]) -> None:
    with contextlib.suppress(BadExperiment):
        assert parse_experiment({**STOCK, **change}).title.strip()


@pytest.mark.parametrize(
    ("tolerance", "value", "within"),
    [
        (200, {"status": 200, "body": "x"}, True),
        (200, {"status": 503, "body": "x"}, False),
        ([200, 204], 202, True),  # two numbers are bounds
        ([200, 204, 301], 202, False),  # more are a choice
        (["up", "warm"], "warm", True),
        (True, True, True),
        (True, 1, False),
        ({"type": "regex", "pattern": "^ok"}, "okay", True),
        ({"type": "regex", "target": "stdout", "pattern": "no"}, {"stdout": "yes"}, False),
        ({"type": "range", "range": [0, 0.5]}, 0.4, True),
        ({"type": "range", "range": [0, 0.5]}, None, False),
        (
            {"type": "jsonpath", "path": "$.a[*].b", "expect": [1, 2]},
            {"a": [{"b": 1}, {"b": 2}]},
            True,
        ),
        ({"type": "jsonpath", "path": "$.a", "target": "body"}, {"body": '{"b": 1}'}, False),
        ({"type": "jsonpath", "path": "$['a'][1]", "count": 1}, {"a": [1, 2]}, True),
    ],
)
def test_tolerances_mean_what_chaos_toolkit_says(
    tolerance: object, value: object, within: bool
) -> None:
    assert tolerated(tolerance, value) is within


def test_a_path_we_do_not_know_is_refused() -> None:
    with pytest.raises(BadExperiment, match="only names"):
        found_at({}, "$..deep")
