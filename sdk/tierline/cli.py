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

from tierline._exceptions import BundleRefused, MissingExtra, TierlineError
from tierline._version import __version__

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: what it is called, what it takes, and the function that runs it.

    ``run`` returns an exit code; a TierlineError it raises becomes one sentence on stderr.
    """

    name: str
    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str


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
    return command.run(parser.parse_args(arguments))


def _load(point: EntryPoint) -> Command:
    try:
        command = getattr(importlib.import_module(point.module), point.attr)
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.split(".")[0].startswith("tierline"):
            raise
        extra = _EXTRA_OF.get(point.module.split(".")[0], "dev")
        raise MissingExtra(extra, f"'tierline {point.name}'") from missing
    assert isinstance(command, Command)
    return command


_EXTRA_OF = {"tierline_serving": "serving", "tierline_edge": "edge", "tierline_cloud": "cloud"}


def _overview(installed: dict[str, EntryPoint]) -> str:
    lines = ["usage: tierline COMMAND …   (tierline COMMAND --help tells more)", "", "commands:"]
    for name, point in sorted(installed.items()):
        try:
            lines.append(f"  {name:<10} {_load(point).summary}")
        except MissingExtra as missing:
            lines.append(f"  {name:<10} not installed: pip install 'tierline[{missing.extra}]'")
    return "\n".join([*lines, "", "exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted"])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"tierline: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
