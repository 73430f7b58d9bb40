"""A bundle is opened whole or refused with the reason, whatever was done to its folder."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline import BundleRefused, ConfigurationError
from tierline_serving._arrays import read_table
from tierline_serving.bundle import Bundle, open_bundle, sign_bundle, write_bundle
from tierline_serving.manifest import TableFiles
from tierline_serving.signing import Signer, Trust

FILES = [*sorted(sample.sequence_files()), "manifest.json", "manifest.sig"]


def refusal(path: Path, trust: Trust) -> str:
    """What a bundle is refused with."""
    with pytest.raises(BundleRefused) as caught:
        open_bundle(path, trust)
    assert str(path) in str(caught.value)
    return str(caught.value)


def rewritten(tmp_path: Path, files: dict[str, Path | bytes], **fields: object) -> str:
    """What writing the sequence bundle with other files or fields is refused with."""
    manifest = {**sample.sequence_manifest(), **fields}
    with pytest.raises(BundleRefused) as caught:
        write_bundle({**sample.sequence_files(), **files}, manifest, tmp_path / "refused")
    assert os.listdir(tmp_path / "refused") == []
    return str(caught.value)


def test_a_written_bundle_opens_and_gives_what_was_written(bundle: Bundle, trust: Trust) -> None:
    opened = open_bundle(bundle.path, trust)
    assert opened == bundle
    assert opened.path.name == f"ranker-1-{opened.digest[:12]}"
    assert opened.id == f"1@{opened.digest[:12]}"
    assert opened.signed_by == trust.keys[0].key_id
    assert opened.model_bytes() == sample.sequence_files()[sample.MODEL]
    assert opened.table("items").shape == (sample.ITEMS + 1, sample.DIM)
    prior = opened.prior()
    assert prior is not None
    assert prior[0] == -np.inf
    assert len(opened.golden()) == 2


def test_tables_cannot_be_written_to(bundle: Bundle) -> None:
    codes = bundle.table("items").codes
    assert codes is not None
    with pytest.raises(ValueError, match="read-only"):
        codes[0, 0] = 1


def test_a_float_table_is_read(tmp_path: Path) -> None:
    values = np.ones((sample.ITEMS + 1, sample.DIM), np.float16)
    files = {
        name: content
        for name, content in sample.sequence_files().items()
        if not name.startswith("tables/")
    }
    manifest = {**sample.sequence_manifest(), "tables": {"items": {"values": "v.npy"}}}
    bundle = write_bundle({**files, "v.npy": sample.npy(values)}, manifest, tmp_path)
    np.testing.assert_array_equal(bundle.table("items").values, values)


def test_writing_the_same_bundle_twice_gives_one_folder(bundle: Bundle, signer: Signer) -> None:
    again = sample.write_sequence_bundle(bundle.path.parent, signer=signer)
    assert again == bundle
    assert os.listdir(bundle.path.parent) == [bundle.path.name]


def test_files_are_copied_from_paths_too(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    bundle = write_bundle(
        {sample.MODEL: tmp_path / "weights"}, sample.tensor_manifest(), tmp_path / "out"
    )
    assert bundle.digest == sample.write_tensor_bundle(tmp_path / "other").digest


def test_a_source_that_is_missing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot copy model\.onnx"):
        write_bundle({sample.MODEL: tmp_path / "none"}, sample.tensor_manifest(), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failure_while_writing_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises((OSError, ConfigurationError), match="No space left"):
        sample.write_tensor_bundle(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def original(signer: Signer) -> Iterator[Path]:
    """One bundle for all the damages below; each works on its own copy."""
    with tempfile.TemporaryDirectory() as folder:
        yield sample.write_sequence_bundle(Path(folder), signer=signer).path


@given(name=st.sampled_from(FILES), place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused(
    original: Path, signer: Signer, name: str, place: int, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(shutil.copytree(original, Path(folder) / "b"))
        raw = bytearray((damaged / name).read_bytes())
        raw[place % len(raw)] ^= 1 << bit
        # The signature file's own spaces and newline are not signed; nothing else may pass.
        harmless = name == "manifest.sig" and raw.split() == (damaged / name).read_bytes().split()
        (damaged / name).write_bytes(raw)
        if not harmless:
            refusal(damaged, Trust(keys=(signer.public_key,)))


@given(name=st.sampled_from(FILES), length=st.integers(0, 10**6))
def test_a_truncated_file_is_refused(
    original: Path, signer: Signer, name: str, length: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(shutil.copytree(original, Path(folder) / "b"))
        raw = (damaged / name).read_bytes()
        kept = length % (len(raw) - 1)  # the last byte of the signature is but a newline
        (damaged / name).write_bytes(raw[:kept])
        refusal(damaged, Trust(keys=(signer.public_key,)))


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.sig"])
def test_a_missing_file_is_named(bundle: Bundle, trust: Trust, name: str) -> None:
    (bundle.path / name).unlink()
    assert f"{name} is missing" in refusal(bundle.path, trust)


@pytest.mark.parametrize("name", ["extra.bin", "tables/extra.npy", ".hidden"])
def test_an_extra_file_is_named(bundle: Bundle, trust: Trust, name: str) -> None:
    (bundle.path / name).write_bytes(b"")
    assert f"{name} is not listed" in refusal(bundle.path, trust)


def test_an_extra_folder_is_named(bundle: Bundle, trust: Trust) -> None:
    (bundle.path / "empty").mkdir()
    assert "empty/ is not listed" in refusal(bundle.path, trust)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "manifest.sig", "tables"])
def test_a_link_is_refused_even_to_the_right_content(
    bundle: Bundle, trust: Trust, tmp_path: Path, name: str
) -> None:
    (bundle.path / name).rename(tmp_path / "elsewhere")
    (bundle.path / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} is a link" in refusal(bundle.path, trust)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    bundle: Bundle, trust: Trust
) -> None:
    (bundle.path / "model.onnx").unlink()
    os.mkfifo(bundle.path / "model.onnx")
    assert "no regular file" in refusal(bundle.path, trust)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, trust: Trust) -> None:
    assert "manifest.json is missing" in refusal(tmp_path, trust)
    assert "no such folder" in refusal(tmp_path / "none", trust)


def test_a_file_changed_after_opening_is_not_handed_out(bundle: Bundle) -> None:
    bundle.file(sample.MODEL).write_bytes(b"other weights")
    with pytest.raises(BundleRefused, match=r"model\.onnx changed after it was opened"):
        bundle.model_bytes()


def test_only_listed_files_are_handed_out(bundle: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="lists no file"):
        bundle.file("../secret")


def test_an_unsigned_bundle_is_refused_unless_allowed(tmp_path: Path, trust: Trust) -> None:
    path = sample.write_tensor_bundle(tmp_path).path
    assert "not signed" in refusal(path, trust)
    assert open_bundle(path, Trust(allow_unsigned=True)).signed_by is None


def test_a_signature_by_a_stranger_is_refused(bundle: Bundle) -> None:
    strange = Trust(keys=(Signer.generate().public_key,), allow_unsigned=True)
    assert "not a trusted one" in refusal(bundle.path, strange)


def test_a_signature_of_another_manifest_is_refused(
    bundle: Bundle, signer: Signer, trust: Trust
) -> None:
    (bundle.path / "manifest.sig").write_bytes(signer.sign(b"another manifest"))
    assert "does not fit the manifest" in refusal(bundle.path, trust)


def test_signing_keeps_the_id(tmp_path: Path, signer: Signer, trust: Trust) -> None:
    unsigned = sample.write_tensor_bundle(tmp_path)
    signed = sign_bundle(unsigned.path, signer)
    assert signed.id == unsigned.id
    assert open_bundle(unsigned.path, trust).signed_by == signer.public_key.key_id


def test_a_damaged_bundle_is_not_signed(bundle: Bundle, signer: Signer) -> None:
    before = (bundle.path / "manifest.sig").read_bytes()
    bundle.file(sample.MODEL).write_bytes(b"")
    with pytest.raises(BundleRefused, match=r"model\.onnx has 0 bytes"):
        sign_bundle(bundle.path, Signer.generate())
    assert (bundle.path / "manifest.sig").read_bytes() == before


class Unpickled:
    """Shows whether anything was unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("/nonexistent/unpickled",))


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("tables/codes.npy", np.zeros((6, 4), np.int8), "expected float32 [6]"),
        ("tables/codes.npy", np.zeros((7, 4), np.float32), "expected int8"),
        ("tables/codes.npy", np.zeros((7, 4), np.int8, order="F"), "C order"),
        ("tables/codes.npy", np.zeros((7, 5), np.int8), "items + 1 rows of dim"),
        ("tables/codes.npy", np.array([[Unpickled()]], object), "no readable npy"),
        ("tables/scales.npy", np.full(7, np.nan, np.float32), "NaN or infinity"),
        ("tables/biases.npy", np.zeros(7, ">f4"), "expected float32 [7]"),
        ("prior.npy", np.zeros(7, np.float32), "entry 0"),
        ("prior.npy", np.zeros(6, np.float32), "expected float32 [7]"),
        ("prior.npy", np.array([-np.inf, *[np.nan] * 6], np.float32), "NaN or +inf"),
    ],
)
def test_arrays_that_contradict_the_manifest_are_refused(
    tmp_path: Path, name: str, array: NDArray[np.generic], reason: str
) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    assert reason in rewritten(tmp_path, {name: buffer.getvalue()})


@given(place=st.integers(0, 200), noise=st.binary(min_size=1, max_size=8))
def test_an_npy_header_that_is_nonsense_is_refused_or_read(
    original: Path, place: int, noise: bytes
) -> None:
    raw = bytearray((original / "tables/codes.npy").read_bytes())
    raw[place : place + len(noise)] = noise
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.npy").write_bytes(raw)
        try:
            table = read_table(Path(folder), "t", TableFiles(values="t.npy"))
        except BundleRefused:
            return
        assert table.values is not None
        assert table.values.dtype in (np.float16, np.float32)


def test_a_source_named_like_a_way_out_is_refused(tmp_path: Path) -> None:
    assert "relative path inside the bundle" in rewritten(tmp_path, {"../out": b""})
    assert os.listdir(tmp_path) == ["refused"]
