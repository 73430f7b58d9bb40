"""What a long stage shows: a bar with its ETA on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

LINES_PER_STAGE = 20  # plain output: enough to follow, short enough for a log


class Tracker(Protocol):
    """Told how far a stage is."""

    def update(self, done: float, note: str) -> None: ...


class Console:
    """Where the pipeline reports. ``stream`` defaults to stderr, so stdout stays for results."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.is_terminal = self.stream.isatty()

    def say(self, line: str) -> None:
        self.stream.write(f"{line}\n")
        self.stream.flush()

    @contextmanager
    def track(self, name: str, total: float) -> Iterator[Tracker]:
        """Follow one stage of ``total`` steps."""
        if not self.is_terminal:
            yield _Lines(self, name, total)
            return
        # Imported here: only a terminal needs rich, and it costs 50 ms.
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Eta

        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            Eta(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=RichConsole(file=self.stream)) as progress:
            task = progress.add_task(name, total=total, note="")

            class Bar:
                def update(self, done: float, note: str) -> None:
                    progress.update(task, completed=done, note=note)

            yield Bar()


class _Lines:
    def __init__(self, console: Console, name: str, total: float) -> None:
        self._console, self._name, self._total = console, name, total
        self._next = 0.0

    def update(self, done: float, note: str) -> None:
        if done < self._next and not note.endswith("stopped"):
            return
        self._next = done + self._total / LINES_PER_STAGE
        self._console.say(f"{self._name}: {done:g}/{self._total:g} {note}")
