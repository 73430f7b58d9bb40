"""The bundle: an immutable, hashed, signed folder that is written whole and opened whole."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused, ConfigurationError
from tierline_serving._arrays import (
    TableArrays,
    check_arrays,
    read_carried,
    read_neighbours,
    read_prior,
    read_table,
)
from tierline_serving._durable import (
    copy_new,
    move_folder,
    replace_file,
    staged_folder,
    write_new,
)
from tierline_serving._fields import MAX_JSON_BYTES, map_of, refuse
from tierline_serving.carried import Carried
from tierline_serving.golden import Pair, read_pairs
from tierline_serving.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
    read_listed_path,
)
from tierline_serving.neighbours import NeighbourTable
from tierline_serving.signing import MAX_SIGNATURE_BYTES, Signer, Trust

__all__ = [
    "Bundle",
    "TableArrays",
    "Trust",
    "bundle_id",
    "folder_name",
    "open_bundle",
    "sign_bundle",
    "write_bundle",
]


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class Bundle:
    """A bundle that passed every check when it was opened."""

    path: Path
    manifest: Manifest
    digest: str  # sha256 of the manifest's bytes, 64 hex digits
    signed_by: str | None  # the key id that was verified; None: nobody vouches for it
    is_private: bool = False  # a copy nobody else writes to: its files may be mapped and served

    @property
    def id(self) -> str:
        """``<version>@<digest12>``, as answers name it."""
        return bundle_id(self.manifest, self.digest)

    def file(self, name: str) -> Path:
        """Where a listed file lies. Raises ConfigurationError for one that is not listed."""
        if name not in self.manifest.files:
            raise ConfigurationError(f"bundle {self.id} lists no file {name!r}")
        return self.path / name

    def read(self, name: str) -> bytes:
        """A listed file's bytes, hashed again: BundleRefused when they changed since opening."""
        path, entry = self.file(name), self.manifest.files[name]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleRefused(f"bundle {self.path}: {name}: {error}") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleRefused(f"bundle {self.path}: {name} changed after it was opened")
        return data

    def model_bytes(self) -> bytes:
        """The model file (``runtime.entry``). Raises BundleRefused when there is none."""
        if self.manifest.runtime.entry is None:
            raise BundleRefused(f"bundle {self.path}: runtime.entry names no model file")
        return self.read(self.manifest.runtime.entry)

    def table(self, name: str) -> TableArrays:
        """A table's arrays, mapped read-only into memory. Raises BundleRefused."""
        if name not in self.manifest.tables:
            raise ConfigurationError(f"bundle {self.id} has no table {name!r}")
        return read_table(self.path, name, self.manifest.tables[name])

    def neighbours(self) -> NeighbourTable | None:
        """What the last events' neighbours add to the scores of kind sequence, or None."""
        sequence = self.manifest.sequence
        if sequence is None or sequence.neighbours is None:
            return None
        return read_neighbours(self.path, sequence)

    def carried(self) -> Carried | None:
        """Which items of the catalogue the table has, or None when it has all."""
        sequence = self.manifest.sequence
        if sequence is None or sequence.carried is None:
            return None
        return read_carried(self.path, sequence)

    def prior(self) -> NDArray[np.float32] | None:
        """A popularity score per item, float32[n_items + 1] and entry 0 −inf, or None."""
        return None if self.manifest.prior is None else read_prior(self.path, self.manifest)

    def golden(self) -> list[Pair]:
        """The golden requests with their replies; empty without any."""
        golden = self.manifest.golden
        if golden is None:
            return []
        return read_pairs(self.read(golden.requests), self.read(golden.replies))


def bundle_id(manifest: Manifest, digest: str) -> str:
    """``<version>@<digest12>``."""
    return f"{manifest.version}@{digest[:12]}"


def folder_name(manifest: Manifest, digest: str) -> str:
    """``<model>-<version>-<digest12>``."""
    return f"{manifest.model}-{manifest.version}-{digest[:12]}"


def open_bundle(path: str | os.PathLike[str], trust: Trust) -> Bundle:
    """Check everything about a bundle, then hand it out. Raises BundleRefused with the reason:
    a bad manifest, a missing, unknown or wrong signature, a file that is missing, altered, linked
    or not listed, tables, prior or golden requests that contradict the manifest."""
    folder = Path(path)
    try:
        return _open(folder, trust)
    except BundleRefused as refused:
        raise BundleRefused(f"bundle {folder}: {refused}") from refused
    except OSError as error:
        raise BundleRefused(f"bundle {folder}: cannot be read: {error}") from error


def write_bundle(
    files: Mapping[str, Path | bytes],
    manifest: Mapping[str, object],
    destination: str | os.PathLike[str],
    signer: Signer | None = None,
) -> Bundle:
    """Write ``<destination>/<model>-<version>-<digest12>`` in one step and open it.

    ``manifest`` is the manifest's JSON without ``files``, which is filled in from ``files`` (path
    in the bundle → content). Writing the same bundle again returns the one that is there; with a
    signer its signature is renewed. Raises BundleRefused when the result would be refused.
    """
    target = Path(destination)
    target.mkdir(parents=True, exist_ok=True)
    trust = Trust(keys=(signer.public_key,) if signer else (), allow_unsigned=signer is None)
    with staged_folder(target) as staged:
        entries = _copy_files(files, staged)
        written = Manifest.from_json({**manifest, "files": entries}).to_bytes()
        write_new(staged / MANIFEST_FILE, written)
        if signer is not None:
            write_new(staged / SIGNATURE_FILE, signer.sign(written))
        bundle = open_bundle(staged, trust)
        final = target / folder_name(bundle.manifest, bundle.digest)
        if not final.exists():
            _move(staged, final)
    return sign_bundle(final, signer) if signer else open_bundle(final, trust)


def sign_bundle(path: str | os.PathLike[str], signer: Signer) -> Bundle:
    """Check a bundle and put the signer's signature on it, in place of any other. The bundle's
    digest and id stay the same. Raises BundleRefused when the bundle itself is not sound."""
    bundle = open_bundle(path, Trust(allow_unsigned=True))
    signature = bundle.path / SIGNATURE_FILE
    content = signer.sign((bundle.path / MANIFEST_FILE).read_bytes())
    if not signature.exists() or signature.read_bytes() != content:
        replace_file(signature, content)
    return open_bundle(path, Trust(keys=(signer.public_key,)))


def _open(folder: Path, trust: Trust) -> Bundle:
    if not folder.is_dir():
        raise BundleRefused("there is no such folder")
    raw = _read_small(folder, MANIFEST_FILE, MAX_JSON_BYTES)
    if raw is None:
        raise BundleRefused(f"{MANIFEST_FILE} is missing; this is no bundle")
    # Who vouches for the manifest comes before what it says.
    signed_by = trust.verify(raw, _read_small(folder, SIGNATURE_FILE, MAX_SIGNATURE_BYTES))
    manifest = Manifest.parse(raw)
    _check_listing(folder, manifest)
    for name, entry in manifest.files.items():
        _check_file(folder / name, name, entry)
    check_arrays(folder, manifest)
    bundle = Bundle(
        path=folder,
        manifest=manifest,
        digest=hashlib.sha256(raw).hexdigest(),
        signed_by=signed_by,
    )
    bundle.golden()
    return bundle


def _read_small(folder: Path, name: str, most: int) -> bytes | None:
    path = folder / name
    if not os.path.lexists(path):
        return None
    _check_regular(path, name)
    if path.stat().st_size > most:
        raise BundleRefused(f"{name}: {path.stat().st_size} bytes; at most {most} are read")
    return path.read_bytes()


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """Every name in the folder is listed, and every listed name is a regular file."""
    parents = {parent.as_posix() for name in manifest.files for parent in Path(name).parents}
    for inside, folders, names in os.walk(folder, onerror=_raise):
        here = Path(inside).relative_to(folder)
        for name in folders:
            path = (here / name).as_posix()
            if (folder / path).is_symlink():
                raise BundleRefused(f"{path} is a link; a bundle holds plain files and folders")
            if path not in parents:
                raise BundleRefused(f"{path}/ is not listed in the manifest")
        for name in names:
            path = (here / name).as_posix()
            if path not in manifest.files and path not in (MANIFEST_FILE, SIGNATURE_FILE):
                raise BundleRefused(f"{path} is not listed in the manifest")


def _raise(error: OSError) -> None:
    raise error


def _check_regular(path: Path, name: str) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise BundleRefused(f"{name} is missing") from None
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
        raise BundleRefused(f"{name} is {kind}; a bundle holds plain files and folders")


def _check_file(path: Path, name: str, entry: FileEntry) -> None:
    _check_regular(path, name)
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleRefused(f"{name} has {size} bytes, the manifest says {entry.bytes}")
    digest = _digest(path)
    if digest != entry.sha256:
        raise BundleRefused(
            f"{name} is damaged: its sha256 is {digest[:12]}…, the manifest says "
            f"{entry.sha256[:12]}…"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy_files(files: Mapping[str, Path | bytes], staged: Path) -> dict[str, object]:
    listed = map_of(read_listed_path, _content)(dict(files), "files")
    entries: dict[str, object] = {}
    for name, content in listed.items():
        place = staged / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(content, bytes):
                write_new(place, content)
            else:
                copy_new(content, place)
        except OSError as error:
            raise ConfigurationError(f"cannot copy {name} into the bundle: {error}") from error
        entries[name] = {"sha256": _digest(place), "bytes": place.stat().st_size}
    return entries


def _content(value: object, path: str) -> Path | bytes:
    if not isinstance(value, Path | bytes):
        refuse(path, f"expected a Path or bytes, got {type(value).__name__}")
    return value


def _move(staged: Path, final: Path) -> None:
    try:
        move_folder(staged, final)
    except OSError:
        if not final.exists():  # else another writer was faster, with the same content
            raise
