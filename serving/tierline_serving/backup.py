"""A registry in one tar file with a hash for every byte, and back, verified before it is used."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from tierline import BundleRefused, ConfigurationError
from tierline_serving._durable import STAGING, move_folder, staged_folder, sync_folder
from tierline_serving._fields import (
    MAX_JSON_BYTES,
    Fields,
    canonical_json,
    file_path,
    integer,
    map_of,
    parse_json,
    text,
)
from tierline_serving.bundle import folder_name, open_bundle
from tierline_serving.manifest import FileEntry, read_file_entry, utc_instant
from tierline_serving.registry import BUNDLES, CHANNELS, Registry
from tierline_serving.signing import Trust

FORMAT: Final = 1
INDEX: Final = "backup.json"  # the first member: what else is inside, with sizes and hashes


def back_up(registry: Registry, target: Path) -> int:
    """Write the whole registry to a tar file in one step; returns the number of files inside.
    Writers wait meanwhile. Raises ConfigurationError when there is no registry or ``target``
    exists."""
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} exists; a backup is never overwritten")
    with registry.reading():
        files = {path: registry.root / path for path in _files(registry.root)}
        entries = {path: _entry(place) for path, place in files.items()}
        index = canonical_json(
            {"format": FORMAT, "created": utc_instant(registry.clock()), "files": entries}
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, staged = tempfile.mkstemp(prefix=STAGING, dir=target.parent)
        try:
            with open(descriptor, "wb") as file:
                _write_tar(file, index, files)
                file.flush()
                os.fsync(file.fileno())
            os.link(staged, target)  # unlike a rename, refuses to replace
        except FileExistsError:
            raise ConfigurationError(f"{target} exists; a backup is never overwritten") from None
        finally:
            os.unlink(staged)
        sync_folder(target.parent)
    return len(files)


def restore(backup: Path, registry: Registry, *, trust: Trust) -> int:
    """Unpack a backup into a registry folder that is absent or empty, in one step, after checking
    every hash, bundle and channel; returns the number of files. Raises BundleRefused when anything
    is wrong, and then nothing was restored; ConfigurationError when the folder is in use."""
    root = registry.root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigurationError(f"{root} is not empty; restore into a new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(root.parent) as staged:
        try:
            with tarfile.open(backup, "r:") as archive:
                count = _unpack(archive, staged)
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
            raise BundleRefused(f"backup {backup}: cannot be read: {error}") from error
        except BundleRefused as refused:
            raise BundleRefused(f"backup {backup}: {refused}") from refused
        (staged / BUNDLES).mkdir(exist_ok=True)
        _check(Registry(staged, registry.clock), trust)
        move_folder(staged, root)
    return count


def _files(root: Path) -> Iterator[str]:
    for top in (BUNDLES, CHANNELS):
        for folder, folders, names in os.walk(root / top):
            folders[:] = sorted(name for name in folders if not name.startswith(STAGING))
            for name in sorted(names):
                if not name.startswith(STAGING):
                    yield (Path(folder) / name).relative_to(root).as_posix()


def _entry(place: Path) -> dict[str, object]:
    with place.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": place.stat().st_size}


def _write_tar(file: IO[bytes], index: bytes, files: dict[str, Path]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        first = tarfile.TarInfo(INDEX)
        first.size, first.mode = len(index), 0o644
        archive.addfile(first, io.BytesIO(index))
        for path, place in files.items():
            archive.add(place, arcname=path, recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's account names travel, and the files are readable wherever they arrive."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _unpack(archive: tarfile.TarFile, staged: Path) -> int:
    first = archive.next()
    content = archive.extractfile(first) if first is not None and first.isreg() else None
    if first is None or first.name != INDEX or content is None or first.size > MAX_JSON_BYTES:
        raise BundleRefused(f"its first member is not {INDEX}; this is no registry backup")
    listed = _read_index(content.read())
    unseen = dict(listed)
    while (member := archive.next()) is not None:
        entry = unseen.pop(member.name, None)
        if entry is None or not member.isreg():
            raise BundleRefused(f"{member.name!a} is a link, a repetition or not listed")
        if member.size != entry.bytes:
            raise BundleRefused(f"{member.name} has {member.size} bytes, listed {entry.bytes}")
        archive.extract(member, staged, filter="data")  # it, too, refuses paths that lead out
        if _entry(staged / member.name)["sha256"] != entry.sha256:
            raise BundleRefused(f"{member.name} is damaged: its hash is not the listed one")
    if unseen:
        raise BundleRefused(f"{min(unseen)} is missing; the backup is cut off")
    return len(listed)


def _read_index(data: bytes) -> dict[str, FileEntry]:
    fields = Fields(parse_json(data, INDEX), INDEX)
    fields.need("format", integer(FORMAT, FORMAT))
    fields.need("created", text)
    files = fields.need("files", map_of(file_path, read_file_entry))
    fields.finish()
    for path in files:
        if path.split("/")[0] not in (BUNDLES, CHANNELS):
            raise BundleRefused(f"{INDEX}: {path} belongs neither to bundles nor to channels")
    return files


def _check(restored: Registry, trust: Trust) -> None:
    for published in restored.list():
        bundle = open_bundle(restored.root / BUNDLES / published.folder, trust)
        if published.folder != folder_name(bundle.manifest, bundle.digest):
            raise BundleRefused(f"{published.folder} does not hold the bundle of that name")
    for channel in restored.channels():
        restored.resolve(channel.model, channel.channel)
