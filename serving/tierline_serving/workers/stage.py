"""Private copies of bundles that several workers map at once, and who still needs them.

A copy is made by the first worker that loads the bundle and deleted by the last one that let it go;
the kernel tells which, by locks that end with their process. Nobody else writes to the copies, so
they may be mapped into memory: the page cache holds each table once for all workers.
"""

from __future__ import annotations

import fcntl
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import IO

from tierline import BundleRefused
from tierline_serving._durable import copy_new, move_folder, staged_folder
from tierline_serving.bundle import Bundle, folder_name, open_bundle
from tierline_serving.manifest import MANIFEST_FILE
from tierline_serving.signing import Trust


class Stage:
    """A folder of private copies, shared by the workers of one port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def take(self, bundle: Bundle) -> tuple[Bundle, Hold]:
        """A verified bundle's private copy, verified again, and the hold that keeps it there.
        Raises BundleRefused when the bundle changed while it was copied."""
        name = folder_name(bundle.manifest, bundle.digest)
        hold = Hold(self._folder / name)
        try:
            if not (self._folder / name).exists():
                self._copy(bundle, name)
            copied = open_bundle(self._folder / name, Trust(allow_unsigned=True))
        except BaseException:
            hold.let_go()
            raise
        return replace(copied, signed_by=bundle.signed_by, is_private=True), hold

    def _copy(self, bundle: Bundle, name: str) -> None:
        with staged_folder(self._folder) as staged:
            for file in (MANIFEST_FILE, *bundle.manifest.files):
                (staged / file).parent.mkdir(parents=True, exist_ok=True)
                copy_new(bundle.path / file, staged / file)
            if open_bundle(staged, Trust(allow_unsigned=True)).digest != bundle.digest:
                raise BundleRefused(f"bundle {bundle.path}: it changed while it was copied")
            try:
                move_folder(staged, self._folder / name)
            except OSError:
                if not (self._folder / name).exists():  # else another worker was faster
                    raise


class Hold:
    """One process's hold on a copy. The last to let go deletes it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._lock: IO[bytes] | None = _lock_file(place).open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def end_with(self, copy: Bundle) -> None:
        """Let go when the copy's bundle, which every scorer of it keeps, is gone from memory."""
        weakref.finalize(copy, self.let_go)

    def let_go(self) -> None:
        """Need the copy no more. A second time does nothing."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another worker holds it
            shutil.rmtree(self._place, ignore_errors=True)


def _lock_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")
