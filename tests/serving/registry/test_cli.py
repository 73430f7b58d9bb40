"""`tierline bundle` and `tierline registry` say what they did and end with the right code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import sample

from tierline import cli
from tierline.cli import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE
from tierline_serving.bundle import Bundle

ACTIONS = {
    "bundle": ("keygen", "build", "verify", "inspect", "sign"),
    "registry": ("publish", "list", "resolve", "promote", "roll-back", "backup", "restore"),
}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two commands, whatever else this machine has installed."""
    group = "tierline.commands"
    points = (
        EntryPoint(name="bundle", value="tierline_serving.cli:BUNDLE", group=group),
        EntryPoint(name="registry", value="tierline_serving.cli:REGISTRY", group=group),
    )
    monkeypatch.setattr(cli, "entry_points", lambda group: points)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a key pair, a model folder and a manifest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / sample.MODEL).write_bytes(b"weights")
    (tmp_path / "m.json").write_text(json.dumps(sample.tensor_manifest()))
    assert cli.main(["bundle", "keygen", "--key", "k.pem", "--public", "k.pub"]) == EXIT_DONE
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert cli.main(arguments) == EXIT_DONE
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """What a command that ends with ``code`` prints."""
    capsys.readouterr()
    assert cli.main(arguments) == code
    return capsys.readouterr().err


def build(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:  # Any: JSON
    """Build the model folder; returns its facts."""
    line = ("bundle", "build", "model", "--manifest", "m.json", "--out", "out", "--json")
    return json.loads(said(capsys, *line, *arguments))


def test_a_bundle_is_built_signed_verified_and_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(capsys, "--key", "k.pem")
    verified = said(capsys, "bundle", "verify", built["path"], "--trust", "k.pub")
    assert verified == f"{built['id']} is sound: 1 files, signed by {built['signed_by']}.\n"
    shown = said(capsys, "bundle", "inspect", built["path"])
    assert "clicks" in shown
    assert "model.onnx" in shown
    inspected = json.loads(said(capsys, "bundle", "inspect", built["path"], "--json"))
    assert inspected["manifest"]["files"][sample.MODEL]["bytes"] == len(b"weights")
    assert inspected["claimed_key"] == built["signed_by"]


def test_an_unsigned_bundle_is_refused_until_it_is_signed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(capsys, "--allow-unsigned")["path"]
    verify = ("bundle", "verify", path, "--trust", "k.pub")
    assert "it is not signed" in complaint(capsys, EXIT_REFUSED, *verify)
    assert "Signed" in said(capsys, "bundle", "sign", path, "--key", "k.pem")
    assert "is sound" in said(capsys, *verify)


def test_a_damaged_bundle_is_refused_with_the_reason(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(capsys, "--key", "k.pem")["path"]
    (Path(path) / sample.MODEL).write_bytes(b"WEIGHTS")
    error = complaint(capsys, EXIT_REFUSED, "bundle", "verify", path, "--trust", "k.pub")
    assert error.startswith(f"tierline: bundle {path}: model.onnx is damaged")


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 2}'])
def test_a_manifest_that_is_none_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (home / "m.json").write_text(content)
    line = ("bundle", "build", "model", "--manifest", "m.json", "--out", "out", "--allow-unsigned")
    assert cli.main(line) in (EXIT_FAILED, EXIT_REFUSED)
    assert capsys.readouterr().err.startswith("tierline: ")


def test_a_link_in_the_model_folder_is_not_followed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "model" / "link").symlink_to("/etc/hostname")
    line = ("bundle", "build", "model", "--manifest", "m.json", "--out", "out", "--allow-unsigned")
    assert "is a link" in complaint(capsys, EXIT_FAILED, *line)


def test_a_folder_that_cannot_be_written_is_a_sentence(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "taken").write_bytes(b"")
    line = ("bundle", "build", "model", "--manifest", "m.json", "--out", "taken", "--key", "k.pem")
    assert "the file system refused" in complaint(capsys, EXIT_FAILED, *line)


def test_a_key_is_not_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("bundle", "keygen", "--key", "k.pem", "--public", "new.pub")
    assert "never overwritten" in complaint(capsys, EXIT_FAILED, *line)


def test_a_registry_is_used_from_publish_to_restore(
    home: Path, capsys: pytest.CaptureFixture[str], first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    root = ("--root", "registry")
    free = (*root, "--allow-unsigned")
    for bundle in (first, second):
        published = said(capsys, "registry", "publish", str(bundle.path), *free)
        assert "channel stable names it" in published
    assert said(capsys, "registry", "resolve", "ranker", *root).strip().endswith(second.path.name)
    back = said(capsys, "registry", "roll-back", "ranker", *free)
    assert back == f"Channel stable of ranker is back at {first.path.name}.\n"
    promoted = said(capsys, "registry", "promote", "ranker", "2", "--channel", "eu", *free)
    assert promoted == f"Channel eu of ranker names {second.path.name}.\n"
    assert "Backed up" in said(capsys, "registry", "backup", "b.tar", *root)
    assert "all verified" in said(
        capsys, "registry", "restore", "b.tar", "--root", "new", "--allow-unsigned"
    )
    listed = json.loads(said(capsys, "registry", "list", "--root", "new", "--json"))
    assert {bundle["id"]: bundle["channels"] for bundle in listed} == {
        first.id: ["stable"],
        second.id: ["eu"],
    }
    table = said(capsys, "registry", "list", "--root", "new")
    assert table.splitlines()[0].split() == ["model", "bundle", "created", "signature", "channels"]


def test_an_unknown_channel_is_a_failure_with_a_way_out(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = complaint(capsys, EXIT_FAILED, "registry", "resolve", "ranker", "--root", "registry")
    assert "tierline registry list" in error


def test_an_empty_registry_lists_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "holds no bundle" in said(capsys, "registry", "list", "--root", str(tmp_path))


@pytest.mark.parametrize(("command", "actions"), ACTIONS.items())
def test_every_action_has_help_with_an_example(
    command: str, actions: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for action in actions:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, action, "--help"])
        assert ended.value.code == EXIT_DONE
        assert f"example:\n  tierline {command} {action} " in capsys.readouterr().out


@pytest.mark.parametrize("command", ACTIONS)
def test_a_command_without_an_action_is_a_usage_error(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command])
    assert ended.value.code == EXIT_USAGE


def test_importing_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys; import tierline; before = set(sys.modules); import tierline_serving.cli; "
        "print(sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cryptography" not in ran.stdout
    assert "tierline_serving.bundle" not in ran.stdout
