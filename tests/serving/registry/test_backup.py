"""A backup brings back every byte, or is refused and brings back nothing."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st

from tierline import BundleRefused, ConfigurationError
from tierline_serving.backup import back_up, restore
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Signer, Trust


@pytest.fixture(scope="module")
def kept(signer: Signer) -> Iterator[tuple[Registry, Path]]:
    """A registry with two versions, and its backup."""
    trust = Trust(keys=(signer.public_key,))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = Registry(folder / "registry")
        for version in ("1", "2"):
            bundle = sample.write_tensor_bundle(folder, signer=signer, version=version)
            registry.publish(bundle.path, trust=trust)
        back_up(registry, folder / "backup.tar")
        yield registry, folder / "backup.tar"


def content(registry: Registry) -> dict[str, bytes]:
    """Every file of a registry but its lock."""
    return {
        path.relative_to(registry.root).as_posix(): path.read_bytes()
        for path in registry.root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def refused(tar: Path, folder: Path, trust: Trust) -> str:
    """What a backup is refused with; nothing may be left of the attempt."""
    before = sorted(os.listdir(folder))
    with pytest.raises(BundleRefused) as caught:
        restore(tar, Registry(folder / "new"), trust=trust)
    assert sorted(os.listdir(folder)) == before
    return str(caught.value)


def test_a_lost_registry_comes_back_whole(
    kept: tuple[Registry, Path], tmp_path: Path, trust: Trust
) -> None:
    registry, tar = kept
    restored = Registry(tmp_path / "new")
    assert restore(tar, restored, trust=trust) == len(content(registry))
    assert content(restored) == content(registry)
    assert restored.read_channel("clicks", "stable") == registry.read_channel("clicks", "stable")
    restored.roll_back("clicks", trust=trust)
    assert open_bundle(restored.resolve("clicks"), trust).manifest.version == "1"


def test_a_folder_in_use_is_not_restored_into(
    kept: tuple[Registry, Path], tmp_path: Path, trust: Trust
) -> None:
    (tmp_path / "precious").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(kept[1], Registry(tmp_path), trust=trust)
    assert os.listdir(tmp_path) == ["precious"]


def test_a_backup_is_never_overwritten(kept: tuple[Registry, Path]) -> None:
    before = kept[1].read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        back_up(*kept)
    assert kept[1].read_bytes() == before


def test_no_registry_makes_no_backup(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no registry"):
        back_up(Registry(tmp_path / "none"), tmp_path / "b.tar")
    assert os.listdir(tmp_path) == []


def test_a_backup_of_bundles_nobody_trusts_is_refused(
    kept: tuple[Registry, Path], tmp_path: Path
) -> None:
    strange = Trust(keys=(Signer.generate().public_key,))
    assert "not a trusted one" in refused(kept[1], tmp_path, strange)


@given(length=st.integers(0, 10**6))
def test_a_cut_backup_is_refused_unless_only_padding_is_cut(
    kept: tuple[Registry, Path], signer: Signer, length: int
) -> None:
    raw = kept[1].read_bytes()
    end = len(raw.rstrip(b"\0"))  # behind it lies the padding that ends a tar file
    with tempfile.TemporaryDirectory() as name:
        cut = Path(name) / "cut.tar"
        cut.write_bytes(raw[: length % end])
        refused(cut, Path(name), Trust(keys=(signer.public_key,)))


@given(place=st.integers(0, 10**7), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(
    kept: tuple[Registry, Path], signer: Signer, place: int, bit: int
) -> None:
    registry, tar = kept
    raw = bytearray(tar.read_bytes())
    raw[place % len(raw)] ^= 1 << bit
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "b.tar").write_bytes(raw)
        restored = Registry(Path(name) / "new")
        try:
            restore(Path(name) / "b.tar", restored, trust=Trust(keys=(signer.public_key,)))
        except BundleRefused:
            assert os.listdir(name) == ["b.tar"]
            return
        assert content(restored) == content(registry)


def repacked(tar: Path, target: Path, extra: tarfile.TarInfo, data: bytes = b"") -> Path:
    """The backup with one more member behind its own."""
    with tarfile.open(tar) as source, tarfile.open(target, "w") as copy:
        for member in source:
            copy.addfile(member, source.extractfile(member))
        extra.size = len(data)
        copy.addfile(extra, io.BytesIO(data))
    return target


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "bundles/../../out", "bundles/extra"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_member_that_is_not_listed_is_refused(
    kept: tuple[Registry, Path], tmp_path: Path, trust: Trust, path: str, kind: bytes
) -> None:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = kind, "/etc/passwd"
    assert "not listed" in refused(repacked(kept[1], tmp_path / "b.tar", member), tmp_path, trust)


def test_a_listed_path_that_leads_out_is_refused(tmp_path: Path, trust: Trust) -> None:
    index = b"""{"format": 1, "created": "now", "files":
        {"../out": {"bytes": 0, "sha256": "%s"}}}""" % (b"0" * 64)
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for name, data in (("backup.json", index), ("../out", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert "relative path" in refused(tmp_path / "b.tar", tmp_path, trust)


def test_a_backup_of_a_damaged_registry_is_refused_when_restored(
    tmp_path: Path, first: Bundle, trust: Trust
) -> None:
    registry = Registry(tmp_path / "registry")
    place = registry.publish(first.path, trust=trust)
    (place / sample.MODEL).write_bytes(b"")
    back_up(registry, tmp_path / "b.tar")
    assert "model.onnx has 0 bytes" in refused(tmp_path / "b.tar", tmp_path, trust)


def test_a_backup_whose_channel_names_nothing_is_refused(
    tmp_path: Path, first: Bundle, trust: Trust
) -> None:
    registry = Registry(tmp_path / "registry")
    shutil.rmtree(registry.publish(first.path, trust=trust))
    back_up(registry, tmp_path / "b.tar")
    assert "which is missing" in refused(tmp_path / "b.tar", tmp_path, trust)
