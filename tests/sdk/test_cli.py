"""The `tierline` command speaks in sentences and ends with the documented exit codes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from tierline import __version__, cli
from tierline._exceptions import BundleRefused, TierlineError
from tierline.cli import Command

MODULE = "tests_sdk_test_cli_commands"
Run = Callable[[argparse.Namespace], int]


def takes_a_name(parser: argparse.ArgumentParser) -> None:
    """Greeting takes a name."""
    parser.add_argument("name")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install one subcommand, `greet`, that does what the test says."""

    def install_greet(run: Run, needs: tuple[str, ...] = ()) -> None:
        module = ModuleType(MODULE)
        command = Command(
            name="greet",
            summary="Greet somebody.",
            configure=takes_a_name,
            run=run,
            example="tierline greet Ada",
            needs=needs,
            extra="manners",
        )
        vars(module)["GREET"] = command
        point = EntryPoint(name="greet", value=f"{MODULE}:GREET", group="tierline.commands")
        monkeypatch.setitem(sys.modules, MODULE, module)
        monkeypatch.setattr(cli, "entry_points", lambda group: (point,))

    return install_greet


def done(_: argparse.Namespace) -> int:
    """A command that does its work."""
    return cli.EXIT_DONE


def raising(error: BaseException) -> Run:
    """A command that ends with the error."""

    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_version_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tierline {__version__}\n"


def test_overview_names_each_command_with_its_summary(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(done)
    assert cli.main(["--help"]) == 0
    assert "greet      Greet somebody.\n" in capsys.readouterr().out


def test_without_a_command_the_overview_is_shown_as_a_usage_error(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(done)
    assert cli.main([]) == cli.EXIT_USAGE
    assert "usage: tierline COMMAND" in capsys.readouterr().out


def test_overview_says_which_extra_a_command_lacks(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(done, needs=("no_such_package",))
    assert cli.main(["--help"]) == 0
    assert "Greet somebody.   [pip install 'tierline[manners]']" in capsys.readouterr().out


def test_unknown_command_names_those_there_are(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(done)
    assert cli.main(["gret"]) == cli.EXIT_USAGE
    assert capsys.readouterr().err == "tierline: There is no command 'gret'. Commands: greet.\n"


def test_a_command_receives_its_arguments_and_its_exit_code_is_kept(
    install: Callable[..., None],
) -> None:
    seen: list[str] = []

    def run(options: argparse.Namespace) -> int:
        seen.append(options.name)
        return cli.EXIT_REFUSED

    install(run)
    assert cli.main(["greet", "Ada"]) == cli.EXIT_REFUSED
    assert seen == ["Ada"]


def test_help_of_a_command_shows_an_example(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(done)
    with pytest.raises(SystemExit) as ended:
        cli.main(["greet", "--help"])
    assert ended.value.code == 0
    assert "example:\n  tierline greet Ada" in capsys.readouterr().out


def test_a_wrong_argument_ends_with_the_usage_code(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(done)
    with pytest.raises(SystemExit) as ended:
        cli.main(["greet", "Ada", "--loudly"])
    assert ended.value.code == cli.EXIT_USAGE
    assert "unrecognized arguments: --loudly" in capsys.readouterr().err


def test_a_missing_extra_is_one_sentence_and_the_command_does_not_run(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(AssertionError("ran")), needs=("no_such_package",))
    assert cli.main(["greet", "Ada"]) == cli.EXIT_FAILED
    sentence = "tierline: 'tierline greet' needs an extra: pip install 'tierline[manners]'\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (TierlineError("The model is gone."), cli.EXIT_FAILED, "tierline: The model is gone.\n"),
        (BundleRefused("It is damaged."), cli.EXIT_REFUSED, "tierline: It is damaged.\n"),
        (KeyboardInterrupt(), cli.EXIT_INTERRUPTED, "tierline: Interrupted.\n"),
    ],
)
def test_errors_end_as_a_sentence_and_their_exit_code(
    install: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    sentence: str,
) -> None:
    install(raising(error))
    assert cli.main(["greet", "Ada"]) == code
    assert capsys.readouterr().err == sentence


def test_a_defect_is_not_dressed_up_as_a_sentence(install: Callable[..., None]) -> None:
    install(raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["greet", "Ada"])


@pytest.mark.slow
def test_the_installed_command_lists_every_declared_subcommand() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tierline.cli", "--help"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    listed = {line.split()[0] for line in ran.stdout.splitlines() if line.startswith("  ")}
    assert {"bundle", "cloud", "edge", "evaluate", "registry", "train"} <= listed


@pytest.mark.slow
def test_the_overview_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tierline import cli; cli.main(['--help'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numba', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr


SDK_ONLY = """
import sys
from importlib.machinery import PathFinder

ABSENT = {"torch", "onnx", "onnxruntime", "numba", "uvicorn", "httptools", "uvloop", "rich",
          "cryptography", "prometheus_client", "safetensors", "onnxscript"}

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
from tierline import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_where_only_the_sdk_is_installed_every_command_names_its_extra() -> None:
    overview = subprocess.run(
        [sys.executable, "-c", SDK_ONLY, "--help"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert overview.returncode == 0, overview.stderr
    for extra in ("serving", "edge", "cloud"):
        assert f"[pip install 'tierline[{extra}]']" in overview.stdout
    serve = subprocess.run(
        [sys.executable, "-c", SDK_ONLY, "edge", "serve", "bundle"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert serve.returncode == cli.EXIT_FAILED
    sentence = "tierline: 'tierline edge' needs an extra: pip install 'tierline[edge]'\n"
    assert serve.stderr == sentence
