"""What makes a process a worker: its listeners, its family, and an end with its supervisor's."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tierline_serving.workers.family import Family
from tierline_serving.workers.stage import Stage

_PR_SET_PDEATHSIG: Final = 1
_STAGE: Final = "bundles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A worker's place in its family, as the supervisor names it on the command line."""

    number: int
    folder: Path
    listeners: tuple[int, ...]  # inherited file descriptors

    def sockets(self) -> list[socket.socket]:
        """The listeners, as sockets of this process."""
        found = [socket.socket(fileno=each) for each in self.listeners]
        for listener in found:
            listener.setblocking(False)
        return found

    def family(self) -> Family:
        """The siblings."""
        return Family(self.folder, self.number)

    def stage(self) -> Stage:
        """Where the family keeps the bundles it maps."""
        return Stage(self.folder / _STAGE)


def end_with_supervisor() -> None:
    """Be told to leave when the process that started this one is gone, however it went. Linux
    only; elsewhere nothing happens."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except AttributeError:
        return
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # it went in between
