"""A process that is lied to: about the time of day, its disk, and the addresses of names.

``python -m tierline_drills.lies FILE MODULE …`` is ``python -m MODULE …`` under these lies, which
FILE tells as JSON and may change while the process runs:

- ``clock``: seconds by which the wall clock is off (``time.time``, ``datetime.now``). The monotonic
  clock is left alone: no system steps it.
- ``fsync``: true, and every flush to the disk fails with EIO.
- ``names``: the address of each name that ends in ``.drill``; one that is not there cannot be
  resolved. ``pinned``: true, and what was resolved once is never asked for again.

Only what the interpreter itself asks is caught: C code that reads the clock on its own is not.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOOK_EVERY = 0.02  # seconds between two readings of the file
NAMES = ".drill"  # the top-level domain of names that only a drill knows


class Lies:
    """What the file says now."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._said: Mapping[str, Any] = {}
        self._looked = float("-inf")

    def said(self, name: str) -> Any:  # Any: a number, a flag or a table
        """One lie; None when it is not told."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            try:
                self._said = json.loads(self._place.read_text(encoding="utf-8"))
            except FileNotFoundError:
                self._said = {}
        return self._said.get(name)


def tell(place: Path, **lies: Any) -> None:
    """Tell these lies on top of those the file tells already; None takes one back."""
    told = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    told |= lies
    staged = place.with_suffix(".new")
    staged.write_text(json.dumps({k: v for k, v in told.items() if v is not None}), "utf-8")
    staged.replace(place)


def command(place: Path, line: list[str]) -> list[str]:
    """The command line ``python -m MODULE …``, lied to."""
    python, option, *module = line
    assert option == "-m"
    return [python, "-m", "tierline_drills.lies", str(place), *module]


def lie_about_time(lies: Lies) -> None:
    """Shift the wall clock, not the monotonic one."""
    true_time, true_ns = time.time, time.time_ns

    def shift() -> float:
        return float(lies.said("clock") or 0.0)

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Shifted:
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: true_time() + shift()
    time.time_ns = lambda: true_ns() + int(shift() * 1e9)
    datetime.datetime = Shifted  # type: ignore[misc]  # whoever imports it from here on


def lie_about_disk(lies: Lies) -> None:
    """Let flushes fail as on a broken disk."""
    flush = os.fsync

    def fsync(file: int) -> None:
        if lies.said("fsync"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(file)

    os.fsync = fsync  # type: ignore[assignment]  # takes what we hand it


def lie_about_names(lies: Lies) -> None:
    """Resolve the drill's names ourselves."""
    ask = socket.getaddrinfo
    once: dict[str, str] = {}

    def getaddrinfo(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not isinstance(name, str) or not name.endswith(NAMES):
            return ask(host, port, *rest, **named)
        known: Mapping[str, str] = lies.said("names") or {}
        address = once.get(name) if lies.said("pinned") and name in once else known.get(name)
        if address is None:
            raise socket.gaierror(socket.EAI_AGAIN, f"no name server answers for {name}")
        once.setdefault(name, address)
        return ask(address, port, *rest, **named)

    socket.getaddrinfo = getaddrinfo


def main(place: str, module: str, *arguments: str) -> None:
    """The process."""
    lies = Lies(Path(place))
    lie_about_time(lies)
    lie_about_disk(lies)
    lie_about_names(lies)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
