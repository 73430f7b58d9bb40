"""The `tierline` command: finds the subcommands that are installed and speaks in sentences.

Exit codes: 0 done · 1 the work failed, the sentence says why · 2 the command line is wrong ·
3 a check did not hold (a bundle refused, a bar missed) · 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from tierline._exceptions import BundleRefused, MissingExtra, TierlineError
from tierline._version import __version__

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: what it is called, what it takes, and the function that runs it.

    ``run`` returns an exit code; a TierlineError it raises becomes one sentence on stderr. The
    module that defines a command imports nothing heavy: ``needs`` names the packages ``run`` will
    import and ``extra`` what installs them, so that the overview stays quick and honest.
    """

    name: str
    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str
    needs: tuple[str, ...] = ()
    extra: str = ""

    def missing(self) -> tuple[str, ...]:
        """The needed packages that are not installed."""
        return tuple(package for package in self.needs if find_spec(package) is None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    installed = {point.name: point for point in entry_points(group="tierline.commands")}
    name = arguments[0] if arguments else "--help"
    if name == "--version":
        _say(f"tierline {__version__}")
        return EXIT_DONE
    if name in ("-h", "--help"):
        _say(_overview(installed))
        return EXIT_DONE if arguments else EXIT_USAGE
    if name not in installed:
        _complain(f"There is no command {name!r}. Commands: {', '.join(sorted(installed))}.")
        return EXIT_USAGE
    try:
        return _run(_load(installed[name]), arguments[1:])
    except BundleRefused as refused:
        _complain(str(refused))
        return EXIT_REFUSED
    except TierlineError as error:
        _complain(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        _complain("Interrupted.")
        return EXIT_INTERRUPTED


def _run(command: Command, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"tierline {command.name}",
        description=command.summary,
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.configure(parser)
    options = parser.parse_args(arguments)
    if command.missing():
        raise MissingExtra(command.extra, f"'tierline {command.name}'")
    return command.run(options)


def _load(point: EntryPoint) -> Command:
    command = getattr(importlib.import_module(point.module), point.attr)
    assert isinstance(command, Command)
    return command


def _overview(installed: dict[str, EntryPoint]) -> str:
    lines = ["usage: tierline COMMAND …   (tierline COMMAND --help tells more)", "", "commands:"]
    for name, point in sorted(installed.items()):
        command = _load(point)
        note = f"   [pip install 'tierline[{command.extra}]']" if command.missing() else ""
        lines.append(f"  {name:<10} {command.summary}{note}")
    codes = "exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted"
    return "\n".join([*lines, "", codes])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"tierline: {text}\n")


if __name__ == "__main__":
    # Under -m this module is here twice; the commands are made of the Command that is imported.
    from tierline.cli import main as imported_main

    sys.exit(imported_main())
