"""`tierline explain` says what is in force, where it comes from, and refuses what is unsafe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tierline
from tierline import ClientConfig, FieldRule, HedgePolicy, RetryPolicy, Sovereignty
from tierline._config import Endpoint, Tier
from tierline._core.explain import never_asked, sights
from tierline._core.findings import Level, checked, findings
from tierline._explaining import EXPLAIN
from tierline.cli import EXIT_DONE, main

FILE = """
[client]
deadline = 0.12

[[tiers]]
name = "edge"
kind = "edge"
region = "eu"
endpoints = ["http://127.0.0.1:8101", "http://127.0.0.1:8102"]

[[tiers]]
name = "public"
kind = "cloud"
trust = "public"
region = "us"
endpoints = ["https://cloud.example:443"]

[retry]
attempts = 3

[sovereignty]
default = "allow"

[[sovereignty.fields]]
name = "query.user"
trust = "public"
action = "drop"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "tierline.toml"
    place.write_text(FILE)
    return place


def tiers(**of_public: object) -> tuple[Tier, ...]:
    edge = Tier(name="edge", kind="edge", region="eu", endpoints=(Endpoint(url="http://e:1"),))
    settings: dict[str, object] = {"trust": "public", "region": "us", **of_public}
    settings.setdefault("endpoints", (Endpoint(url="https://p:1"),))
    return edge, Tier(name="public", kind="cloud", **settings)  # type: ignore[arg-type]


SEVERAL = tiers(endpoints=(Endpoint(url="https://p:1"), Endpoint(url="https://q:1")))


def config(**changes: object) -> ClientConfig:
    return ClientConfig(**{"tiers": tiers(), **changes})  # type: ignore[arg-type]


def levels(given: ClientConfig, **options: float) -> dict[str, Level]:
    found = findings(given, **options)  # type: ignore[arg-type]
    return {finding.key: finding.level for finding in found}


def test_every_knob_is_printed_with_where_it_comes_from(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["client.deadline", "0.12", "file"] in lines
    assert ["retry.attempts", "3", "file"] in lines
    assert ["retry.per_tier", "2", "default"] in lines
    assert ["sovereignty.default", "allow", "file"] in lines
    assert ["hedge", "off", "default"] in lines


def test_the_worst_case_is_told_in_sentences(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(file), "--processes", "4", "--rate", "50"])
    told = capsys.readouterr().out
    assert "at most 3 attempt(s), of 3 allowed" in told
    assert "plus 4 a second" in told
    assert "ends by its deadline: 120 ms" in told
    assert "edge 0 ms to 60 ms; edge 60 ms to 89 ms; public 89 ms to 119 ms" in told
    assert "query.user=drop" in told
    assert "Probes" not in told
    file.write_text(FILE + "[health]\ninterval = 1.5\n")
    main(["explain", str(file), "--processes", "4"])
    assert "Probes of health come on top: 8 a second over 3" in capsys.readouterr().out


def test_the_same_is_told_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(file), "--json", "--rate", "10"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["worst_case"]["attempts_a_call"] == 3
    assert told["worst_case"]["over"] == {"calls": 600, "seconds": 60, "processes": 1}
    assert [loss["down"] for loss in told["availability"]] == [0, 1, 2, 3]
    assert {"tier": "public", "field": "query.user", "action": "drop"} in told["sights"]
    assert told["findings"] == []


def test_floors_that_add_up_to_a_storm_end_with_a_refusal(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(file), "--processes", "3200"]) == 3
    assert "UNSAFE   retry.floor: 1 a second in each of 3200 processes" in capsys.readouterr().out
    assert main(["explain", str(file), "--processes", "3200", "--most-extra", "4000"]) == 0


def test_a_wrong_file_is_one_sentence_and_a_wrong_number_is_usage(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FILE.replace("attempts = 3", "attempts = 0"))
    assert main(["explain", str(file)]) == 1
    assert "retry.attempts: must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["explain", str(file), "--processes", "none"])
    assert usage.value.code == 2


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["explain", "--help"])
    assert done.value.code == 0
    assert EXPLAIN.example in capsys.readouterr().out


def test_the_sdk_alone_is_enough(file: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('rich', 'onnxruntime', 'torch', 'numba', 'tierline_serving'):\n"
        "    sys.modules[name] = None\n"
        "from tierline._explaining import EXPLAIN\n"
        "import argparse\n"
        "parser = argparse.ArgumentParser()\n"
        "EXPLAIN.configure(parser)\n"
        f"sys.exit(EXPLAIN.run(parser.parse_args([{str(file)!r}])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- what is refused -------------------------------------------------------------------------------

FORBID = FieldRule(name="*", action="forbid")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sovereignty": Sovereignty(regions=("mars",))}, "sovereignty"),
        ({"sovereignty": Sovereignty(fields=(FORBID,), default="allow")}, "sovereignty.fields"),
        ({"sovereignty": Sovereignty(default="forbid")}, "sovereignty.fields"),
        ({"deadline": 0.0025}, "client.deadline"),
    ],
)
def test_no_client_is_made_that_could_never_ask_anybody(
    changes: dict[str, object], key: str
) -> None:
    with pytest.raises(tierline.ConfigurationError) as refused:
        tierline.Client(config=config(**changes))
    assert refused.value.key == key
    assert levels(config(**changes))[key] is Level.REFUSED


def test_a_hedge_after_the_deadline_is_refused_where_it_is_made() -> None:
    with pytest.raises(tierline.ConfigurationError, match=r"hedge\.after"):
        config(hedge=HedgePolicy(after=0.3))


@pytest.mark.parametrize(
    ("changes", "key", "level"),
    [
        ({"retry": RetryPolicy(budget=0.5)}, "retry.budget", Level.UNSAFE),
        ({"retry": RetryPolicy(attempts=1)}, "retry.attempts", Level.UNSAFE),
        ({"hedge": HedgePolicy(budget=0.5)}, "hedge.budget", Level.UNSAFE),
        ({"hedge": HedgePolicy(after=0.2)}, "hedge.after", Level.NOTE),
        ({"hedge": HedgePolicy()}, "hedge", Level.NOTE),
        (
            {"tiers": tiers(endpoints=(Endpoint(url="http://cloud.example:1"),))},
            "tiers.public.endpoints",
            Level.UNSAFE,
        ),
        ({}, "tiers.public", Level.NOTE),
        ({"retry": RetryPolicy(base=0.2)}, "retry.base", Level.NOTE),
        ({"deadline": 0.0045, "tiers": SEVERAL}, "retry.attempts", Level.NOTE),
        ({"sovereignty": Sovereignty(regions=("eu", "mars"))}, "sovereignty.regions", Level.NOTE),
    ],
)
def test_what_deserves_a_word_gets_it(changes: dict[str, object], key: str, level: Level) -> None:
    given = config(**changes)
    assert levels(given)[key] is level
    assert checked(given) is given


def test_a_rule_for_no_tier_there_is_hides_nothing_and_is_unsafe() -> None:
    rule = FieldRule(name="user", action="drop", regions=("mars",))
    given = config(sovereignty=Sovereignty(fields=(rule,), default="allow"))
    assert levels(given)["sovereignty.fields.user"] is Level.UNSAFE


def test_pseudonyms_that_differ_between_processes_get_a_word() -> None:
    rule = FieldRule(name="user", action="hash", trust="public")
    drawn = config(sovereignty=Sovereignty(fields=(rule,), default="allow"))
    kept = config(sovereignty=Sovereignty(fields=(rule,), default="allow", secret=b"k" * 16))
    assert levels(drawn, processes=2) == {"sovereignty.secret": Level.NOTE}
    assert levels(drawn) == levels(kept, processes=2) == {}


def test_a_careful_configuration_has_no_findings() -> None:
    rule = FieldRule(name="user", action="drop", trust="public")
    assert findings(config(sovereignty=Sovereignty(fields=(rule,), default="allow"))) == []


# -- who sees what ---------------------------------------------------------------------------------


def test_a_tier_that_may_not_be_asked_sees_nothing() -> None:
    given = config(sovereignty=Sovereignty(trust="private"))
    assert {(s.tier, s.field, s.action) for s in sights(given)} == {
        ("edge", "query.*", "allow"),
        ("edge", "candidates.*", "allow"),
        ("public", "query.*", "nothing"),
        ("public", "candidates.*", "nothing"),
    }


def test_a_tier_is_never_asked_when_no_name_of_a_field_is_let_through() -> None:
    named = FieldRule(name="user", action="allow", trust="public")
    everything = FieldRule(name="*", action="forbid", trust="public")
    closed = config(sovereignty=Sovereignty(fields=(everything,), default="allow"))
    ajar = config(sovereignty=Sovereignty(fields=(named, everything), default="allow"))
    assert [tier.name for tier in never_asked(closed)] == ["public"]
    assert never_asked(ajar) == []


def test_shadows_and_caps_are_told_and_a_cap_at_the_budget_gets_a_word(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = '[escalation]\nmode = "quality_first"\nbudget = 0.1\nshadow = 0.02\n'
    file.write_text(FILE + table)
    assert main(["explain", str(file), "--processes", "2"]) == EXIT_DONE
    told = capsys.readouterr().out
    assert "Escalations: at most 10% of any run of calls, plus 206" in told
    assert "Shadows: at most 2.0% of the calls whose bundle is certified, plus 10 a model" in told
    assert "NOTE     escalation.cap" in told
    alone = FILE.partition('[[tiers]]\nname = "public"')[0]
    file.write_text(f"{alone}\n{table}")
    main(["explain", str(file)])
    told = capsys.readouterr().out
    assert "NOTE     escalation.mode: has no effect" in told
    assert "NOTE     escalation.shadow: has no effect" in told
