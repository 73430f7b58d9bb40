"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY = 5.0  # seconds between two plain lines


def say(text: str) -> None:
    """One line about the step that begins or the thing that happened."""
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many of ``total`` are done."""
    if not sys.stderr.isatty():
        yield _lines(label, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


def _lines(label: str, total: int) -> Callable[[int], None]:
    said_at, said = 0.0, -1

    def update(done: int) -> None:
        nonlocal said_at, said
        now = time.monotonic()
        if done != said and (done == total or now - said_at >= LINE_EVERY):
            said_at, said = now, done
            say(f"{label}: {done} of {total}")

    return update
