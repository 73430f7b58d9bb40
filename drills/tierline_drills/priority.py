"""How much of a machine a process gets while it starts beside others that serve.

Starting a node is one to two seconds of computing. On a machine with room for its load and little
more, that alone makes the neighbours late. So a process that starts among others asks for little
(nice, and the nice of its session where the kernel groups tasks by session) and for its even share
once it is ready. What may not be lifted again is not lowered.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

LOW: Final = 10  # nice: a tenth of an even share while all others compute, all that is idle else
_CAP_SYS_NICE: Final = 1 << 23  # linux/capability.h
_PROC: Final = Path("/proc")

# Runs in the new process, before its command; argv[2] is the nice value.
LOWER: Final = """
if sys.argv[2] != "0":
    os.nice(int(sys.argv[2]))
    try:
        with open("/proc/self/autogroup", "w") as group:
            group.write(sys.argv[2])
    except OSError:
        pass  # no such groups here: nice alone counts
"""


def can_lift() -> bool:
    """Whether this process may raise another's priority again: Linux, with CAP_SYS_NICE."""
    try:
        status = (_PROC / "self" / "status").read_text(encoding="ascii")
    except OSError:
        return False
    (effective,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & _CAP_SYS_NICE)


def lift(process: int) -> None:
    """Give a lowered process its even share: every thread it has, and its session. One that has
    ended is left alone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in (_PROC / str(process) / "task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)
        group = _PROC / str(process) / "autogroup"
        if not group.read_text(encoding="ascii").endswith(" nice 0\n"):
            group.write_text("0", encoding="ascii")
