"""Whether a bundle fits into the memory that is left, before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tierline import BundleRefused
from tierline_serving.manifest import Manifest

# A graph is read, parsed and repacked for the processor: at the worst moment all three are there.
MODEL_COPIES: Final = 3
OVERHEAD: Final = 32 * 2**20  # a session, its arena and a scoring thread
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")


def needed(manifest: Manifest) -> int:
    """Bytes that loading a bundle may take at the worst moment: an estimate from its files."""
    entry = manifest.runtime.entry
    model = 0 if entry is None else manifest.files[entry].bytes
    total = sum(file.bytes for file in manifest.files.values())
    return total - model + MODEL_COPIES * model + OVERHEAD


def available(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes this process may still take, by the machine and by its cgroup; None when unknown."""
    limits = [left for left in (_of_machine(meminfo), _of_cgroup(cgroup)) if left is not None]
    return min(limits, default=None)


def check_room(bundle: str, need: int, free: int | None) -> None:
    """Raise BundleRefused when a bundle needs more than is free. Pure."""
    if free is not None and need > free:
        raise BundleRefused(
            f"bundle {bundle} needs about {_mib(need)} MiB to load and {_mib(free)} are free; "
            "unload something first, or give this process more memory"
        )


def _of_machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None  # not Linux, or not told


def _of_cgroup(cgroup: Path) -> int | None:
    try:
        most = (cgroup / "memory.max").read_text().strip()
        if most == "max":
            return None
        held = int((cgroup / "memory.current").read_text())
        stat = dict(
            line.split(maxsplit=1) for line in (cgroup / "memory.stat").read_text().splitlines()
        )
        # The page cache of files gives way before anybody is killed.
        return int(most) - held + int(stat["inactive_file"]) + int(stat["active_file"])
    except (OSError, ValueError, KeyError):
        return None  # no cgroup v2 limit here


def _mib(size: int) -> int:
    return round(size / 2**20)
