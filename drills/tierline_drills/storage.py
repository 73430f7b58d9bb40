"""Loss and damage of stored things: a registry, its backups, a disk that is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tierline import BundleRefused, ConfigurationError
from tierline_drills import lies
from tierline_drills.errors import DrillError
from tierline_drills.processes import tierline_command
from tierline_serving.backup import back_up, restore
from tierline_serving.bundle import open_bundle
from tierline_serving.registry import BUNDLES, Registry
from tierline_serving.signing import Trust

FULL_DISK = 4096  # bytes a file may still grow to
LIMIT = """
import os, resource, sys
room = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
os.execv(sys.argv[2], sys.argv[2:])
"""


def damage(registry: Registry, trust: Trust) -> str:
    """What is wrong with a registry, in a sentence; "" when every channel's bundle is sound."""
    if not registry.root.is_dir():
        return f"the registry {registry.root.name} is gone"
    try:
        channels = registry.channels()
        if not channels:
            return f"the registry {registry.root.name} has no channel left"
        for channel in channels:
            open_bundle(registry.resolve(channel.model, channel.channel), trust)
    except (BundleRefused, ConfigurationError, OSError) as error:
        return f"the registry is damaged: {error}"
    return ""


def lose(registry: Registry) -> None:
    """Delete the whole registry, as a lost disk would."""
    shutil.rmtree(registry.root)


def flip_bit(path: Path, offset: int | None = None) -> None:
    """Change one bit in the middle of a file (or at ``offset``), and nothing else of it."""
    size = path.stat().st_size
    place = size // 2 if offset is None else offset
    if not 0 <= place < size:
        raise DrillError(f"{path.name} has no byte {place}")
    os.chmod(path, 0o644)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


def truncate(path: Path, share: float = 0.5) -> None:
    """Cut a file off, as a crash in the middle of a copy would."""
    os.chmod(path, 0o644)
    os.truncate(path, int(path.stat().st_size * share))


def largest_file(registry: Registry, model: str, channel: str = "stable") -> Path:
    """The largest file of the bundle a channel names: the one a disk is likeliest to hurt."""
    folder = registry.resolve(model, channel)
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def take_backup(registry: Registry, folder: Path) -> Path:
    """Write the next numbered backup; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"registry-{len(backups(folder)):04d}.tar"
    back_up(registry, target)
    return target


def backups(folder: Path) -> list[Path]:
    """Every backup, newest first."""
    return sorted(folder.glob("registry-*.tar"), reverse=True)


def restore_newest(folder: Path, registry: Registry, trust: Trust) -> tuple[Path, list[str]]:
    """Restore the newest backup that is sound; returns it and why newer ones were not taken. What
    is left of the damaged registry is kept aside. Raises DrillError when none is sound."""
    refused: list[str] = []
    root = registry.root
    if root.exists():
        aside = root.with_name(f"{root.name}-damaged-{len(list(root.parent.glob('*-damaged-*')))}")
        root.rename(aside)
    for candidate in backups(folder):
        try:
            restore(candidate, registry, trust=trust)
            return candidate, refused
        except BundleRefused as error:
            refused.append(str(error))
    raise DrillError(f"no backup in {folder.name} could be restored: {refused or 'there is none'}")


def publish_when_full(
    registry: Registry, bundle: Path, public: Path, *, room: int = FULL_DISK
) -> str:
    """Let a process that may write only ``room`` bytes into a file publish a bundle; returns what
    it said. Raises DrillError when it succeeded all the same.

    The limit is the kernel's (RLIMIT_FSIZE): a write beyond it fails as one on a full disk does,
    and no root is needed. The signal that would end the process is ignored by Python."""
    line = _publishing(registry, bundle, public)
    return _refused([sys.executable, "-c", LIMIT, str(room), *line], "the disk was full")


def publish_on_broken_disk(registry: Registry, bundle: Path, public: Path, told: Path) -> str:
    """Let a process that is lied to by the file ``told`` publish a bundle; returns what it said.
    Raises DrillError when it succeeded all the same."""
    line = lies.command(told, _publishing(registry, bundle, public))
    return _refused(line, "the disk had I/O errors")


def _publishing(registry: Registry, bundle: Path, public: Path) -> list[str]:
    arguments = ["registry", "publish", str(bundle), "--root", str(registry.root)]
    return tierline_command(*arguments, "--trust", str(public))


def _refused(line: list[str], why: str) -> str:
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        raise DrillError(f"a publish succeeded though {why}")
    return done.stderr.strip()


def publishes_lost(registry: Registry, known: frozenset[str]) -> int:
    """How many of the bundles that were acknowledged are not there any more."""
    present = (
        {p.name for p in (registry.root / BUNDLES).iterdir()} if registry.root.exists() else ()
    )
    return len(known.difference(present))


def published(registry: Registry) -> frozenset[str]:
    """The folder names of every bundle here."""
    return frozenset(one.folder for one in registry.list())
