"""The promises runner measures what the claims name and never hides a miss."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import tomllib
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROMISES = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "promises"

CLAIM = """
[[claim]]
id = "{id}"
promise = "P7"
group = "{group}"
claim = "Calls are quick."
command = '''{command}'''
key = "{key}"
bar = "{bar}"
unit = "µs"
minutes = 0.1
"""


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    """The runner's pure half; scripts' folders are no package."""
    path = str(PROMISES)
    sys.path.insert(0, path)
    try:
        import claims as module  # type: ignore[import-not-found]
    finally:
        sys.path.remove(path)
    assert isinstance(module, ModuleType)
    return module


@pytest.fixture(scope="module")
def runner(claims: ModuleType) -> ModuleType:
    """The runner's acting half, under a name that no other script's `run.py` has."""
    spec = spec_from_file_location("promises_run", PROMISES / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_claim(**changes: str) -> str:
    """One claim as TOML, with what the test is about changed."""
    usual = {"id": "quick", "group": "core", "command": "true", "key": "us", "bar": "<= 100"}
    return CLAIM.format(**{**usual, **changes})


def run(tmp_path: Path, toml: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the runner on a file of claims."""
    file = tmp_path / "promises.toml"
    file.write_text(toml, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(PROMISES / "run.py"), "--file", str(file), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def script(tmp_path: Path, body: str) -> str:
    """A command that runs the given Python."""
    path = tmp_path / f"command{len(list(tmp_path.iterdir()))}.py"
    path.write_text(body, encoding="utf-8")
    return f"python {path}"


def verdicts(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The recorded rows by id; values are JSON's, hence Any."""
    record = json.loads(done.stdout.splitlines()[-1])
    return {row["id"]: row for row in record["claims"]}


def test_a_kept_bar_ends_with_0_and_names_figure_and_machine(tmp_path: Path) -> None:
    command = script(tmp_path, "print('progress')\nprint('{\"us\": 80.5}')")
    done = run(tmp_path, a_claim(command=command), "--json", "-")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["claims"][0]["measured"] == 80.5
    assert record["claims"][0]["verdict"] == "kept"
    assert record["machine"]["cores"] >= 1
    assert record["versions"]["numpy"]


def test_a_missed_bar_ends_with_3_and_says_what_fell_short(tmp_path: Path) -> None:
    command = script(tmp_path, "print('{\"us\": 120}')")
    done = run(tmp_path, a_claim(command=command), "--json", str(tmp_path / "out.json"))
    assert done.returncode == 3
    assert "falls short: quick: measured 120, the bar is ≤ 100" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["kept"] == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import sys; sys.exit('it broke')", "exit code 1: it broke"),
        ("print('{\"us\": 1}'); raise SystemExit(1)", "exit code 1"),
        ("print('fast enough')", "no JSON object"),
        ("print('{\"other\": 1}')", "no figure named 'us'"),
        ("print('{\"us\": true}')", "not a number"),
        ("print('{\"us\": null}')", "no figure named 'us'"),
    ],
)
def test_a_figure_that_is_missing_is_not_measured_and_ends_with_3(
    tmp_path: Path, body: str, reason: str
) -> None:
    done = run(tmp_path, a_claim(command=script(tmp_path, body)), "--json", "-")
    assert done.returncode == 3
    row = verdicts(done)["quick"]
    assert row["verdict"] == "NOT MEASURED"
    assert row["measured"] is None
    assert reason in row["reason"]


def test_a_command_that_does_not_exist_is_not_measured(tmp_path: Path) -> None:
    done = run(tmp_path, a_claim(command="no-such-command-here"), "--json", "-")
    assert done.returncode == 3
    assert "did not start" in verdicts(done)["quick"]["reason"]


def test_figures_of_a_check_that_did_not_hold_still_count(tmp_path: Path) -> None:
    command = script(tmp_path, "print('{\"us\": 101}')\nraise SystemExit(3)")
    done = run(tmp_path, a_claim(command=command), "--json", "-")
    assert verdicts(done)["quick"]["measured"] == 101


def test_a_command_may_write_its_figures_to_a_file(tmp_path: Path) -> None:
    body = 'import sys, pathlib\npathlib.Path(sys.argv[1]).write_text(\'{"a": {"us": 7}}\')'
    command = script(tmp_path, body) + " {json}"
    # The template is formatted first, so the placeholder goes in afterwards.
    toml = a_claim(command="COMMAND", key="a.us").replace("COMMAND", command)
    assert verdicts(run(tmp_path, toml, "--json", "-"))["quick"]["measured"] == 7


def test_a_command_may_have_an_empty_folder(tmp_path: Path) -> None:
    body = "import json, os, sys\nprint(json.dumps({'us': len(os.listdir(sys.argv[1]))}))"
    toml = a_claim(command="COMMAND").replace("COMMAND", script(tmp_path, body) + " {folder}")
    assert verdicts(run(tmp_path, toml, "--json", "-"))["quick"]["measured"] == 0


def test_what_commands_leave_in_their_folder_is_kept_where_asked(tmp_path: Path) -> None:
    body = "import os, sys\nopen(os.path.join(sys.argv[1], 'raw.log'), 'w').write('x')\n"
    command = script(tmp_path, body + "print('{\"us\": 0}')") + " {folder}"
    toml = a_claim(command="COMMAND").replace("COMMAND", command)
    assert run(tmp_path, toml, "--keep", str(tmp_path / "kept"), "--json", "-").returncode == 0
    assert (tmp_path / "kept" / "quick" / "raw.log").read_text() == "x"


def test_a_claim_may_be_about_a_difference_of_figures(tmp_path: Path) -> None:
    command = script(tmp_path, 'print(\'{"tiered": {"gain": 0.75}, "edge only": 0.5}\')')
    toml = a_claim(command=command, key="tiered.gain minus edge only", bar=">= 0.25")
    assert verdicts(run(tmp_path, toml, "--json", "-"))["quick"]["measured"] == 0.25


def test_a_command_shared_by_claims_runs_once(tmp_path: Path) -> None:
    log = tmp_path / "runs"
    body = f"open({str(log)!r}, 'a').write('x')\nprint('{{\"us\": 1, \"leaks\": 0}}')"
    command = script(tmp_path, body)
    toml = a_claim(command=command) + a_claim(id="tight", key="leaks", bar="== 0", command=command)
    assert run(tmp_path, toml, "--json", "-").returncode == 0
    assert log.read_text() == "x"


def test_only_runs_the_chosen_group(tmp_path: Path) -> None:
    command = script(tmp_path, "print('{\"us\": 1}')")
    toml = a_claim(command=command) + a_claim(id="other", group="kernels", command="false")
    done = run(tmp_path, toml, "--only", "core", "--json", "-")
    assert done.returncode == 0
    assert list(verdicts(done)) == ["quick"]


def test_a_mistyped_choice_is_refused_instead_of_passing_emptily(tmp_path: Path) -> None:
    done = run(tmp_path, a_claim(), "--only", "krenels")
    assert done.returncode == 2
    assert "nothing is named krenels; groups: core" in done.stderr


def test_list_shows_the_claims_and_runs_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, a_claim(command=script(tmp_path, "open('ran', 'w')")), "--list")
    assert done.returncode == 0
    assert "Calls are quick." in done.stdout
    assert not (PROMISES.parent.parent / "ran").exists()


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("", "[[claim]] tables only"),
        (a_claim().replace("bar", "bra"), "unknown or missing bar, bra"),
        (a_claim(bar="< 100"), "a bar is like '<= 100'"),
        (a_claim(bar="<= soon"), "ends in a number"),
        (a_claim(bar="<= nan"), "finite"),
        (a_claim().replace("0.1", "'long'"), "minutes must be a number"),
        (a_claim() + a_claim(), "two claims are named 'quick'"),
        ("[[claim", "promises.toml"),
    ],
)
def test_a_wrong_file_of_claims_is_refused_with_the_reason(
    tmp_path: Path, toml: str, complaint: str
) -> None:
    done = run(tmp_path, toml)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_hung_command_is_not_measured_and_takes_its_children_with_it(
    runner: ModuleType, tmp_path: Path
) -> None:
    lock = tmp_path / "held-by-the-child"
    child = f"import fcntl, signal; f = open({str(lock)!r}, 'w'); fcntl.flock(f, 2); signal.pause()"
    body = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    figures = runner.run_command(script(tmp_path, body), limit=2.0)
    assert "still running after 2 s" in figures.trouble

    def waited_too_long(*_: object) -> None:
        raise TimeoutError("the command's child still holds its lock")

    before = signal.signal(signal.SIGALRM, waited_too_long)
    signal.alarm(10)
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_proofs_count_skipped_tests_as_unproven(tmp_path: Path) -> None:
    test = tmp_path / "test_three.py"
    test.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert False\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, str(PROMISES / "proofs.py"), str(test), "-p", "no:cacheprovider"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[-1]) == {"passed": 1, "unproven": 2}


def test_proofs_of_an_empty_selection_are_unproven(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text("")
    done = subprocess.run(
        [sys.executable, str(PROMISES / "proofs.py"), str(tmp_path), "-p", "no:cacheprovider"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[-1]) == {"passed": 0, "unproven": 1}


@given(measured=st.floats(allow_nan=True), limit=st.floats(-1e9, 1e9))
def test_a_bar_holds_exactly_when_the_comparison_does(
    claims: ModuleType, measured: float, limit: float
) -> None:
    assert claims.Bar(comparison="<=", limit=limit).holds(measured) == (measured <= limit)
    assert claims.Bar(comparison=">=", limit=limit).holds(measured) == (measured >= limit)
    assert claims.Bar(comparison="==", limit=limit).holds(measured) == (measured == limit)


def test_the_houses_own_claims_are_well_formed_and_their_scripts_exist(claims: ModuleType) -> None:
    rows = claims.parse_claims(tomllib.loads((PROMISES / "promises.toml").read_text("utf-8")))
    root = PROMISES.parent.parent
    for claim in rows:
        words = claim.command.split()
        paths = [word for word in words if "/" in word]
        assert paths or (words[1] == "-m" and find_spec(words[2])), claim.command
        assert all((root / path.partition("::")[0]).exists() for path in paths), claim.command
        assert claim.promise in {f"P{number}" for number in range(1, 8)}
