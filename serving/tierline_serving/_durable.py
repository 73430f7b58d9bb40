"""Writes files so that a crash leaves the old state or the new one, never a part of either."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

STAGING: Final = ".staging-"  # unfinished work; whoever finds one may delete it


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Create a file that must not exist yet, and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_new(source: Path, path: Path) -> None:
    """Copy a file to a place that must be free, and flush the copy to the disk."""
    with source.open("rb") as reader, path.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
        os.fsync(writer.fileno())


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Give a file new content in one step: readers see the old bytes or the new ones."""
    descriptor, staged = tempfile.mkstemp(prefix=STAGING, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def staged_folder(parent: Path) -> Iterator[Path]:
    """A private folder in ``parent`` to build in; what is left of it at the end is deleted."""
    folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_folder(staged: Path, target: Path) -> None:
    """Put a finished folder in its place in one step. Raises OSError when that is taken."""
    for folder, _, _ in os.walk(staged):
        os.chmod(folder, 0o755)  # tempfile makes it private
        sync_folder(Path(folder))
    os.replace(staged, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries: without this a crash may forget a rename."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
