"""Keys are kept private, named by their hash, and signatures hold for one manifest only."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline import BundleRefused, ConfigurationError
from tierline_serving.signing import PublicKey, Signer, Trust

KEY = Signer.generate()
TRUST = Trust(keys=(KEY.public_key,))


def test_keys_survive_writing_and_reading(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem", tmp_path / "key.pub")
    assert PublicKey.from_file(tmp_path / "key.pub") == KEY.public_key
    signature = Signer.from_file(tmp_path / "key.pem").sign(b"manifest")
    assert TRUST.verify(b"manifest", signature) == KEY.public_key.key_id


def test_a_private_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem", tmp_path / "key.pub")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("taken", ["key.pem", "key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        KEY.save(tmp_path / "key.pem", tmp_path / "key.pub")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_a_signer_does_not_show_its_key() -> None:
    assert "Ed25519" not in repr(KEY)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.key").write_bytes(content)
    for read in (PublicKey.from_file, Signer.from_file):
        with pytest.raises(ConfigurationError, match=r"no\.key is no"):
            read(tmp_path / "no.key")
        with pytest.raises(ConfigurationError, match="cannot read"):
            read(tmp_path / "absent")


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_signature_holds_for_its_manifest_only(manifest: bytes, other: bytes) -> None:
    signature = KEY.sign(manifest)
    assert TRUST.verify(manifest, signature) == KEY.public_key.key_id
    if other != manifest:
        with pytest.raises(BundleRefused, match="does not fit"):
            TRUST.verify(other, signature)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_signature_are_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused, match=r"manifest\.sig"):
        TRUST.verify(b"manifest", data)


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "none"},
        {"key_id": "é" * 16},
        {"key_id": 7},
        {"signature": "not base64"},
        {"signature": None},
        {"comment": "hello"},
    ],
)
def test_a_signature_file_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    written = {**json.loads(KEY.sign(b"manifest")), **change}
    with pytest.raises(BundleRefused, match=r"manifest\.sig"):
        TRUST.verify(b"manifest", json.dumps(written).encode())


def test_a_short_signature_is_refused() -> None:
    written = {**json.loads(KEY.sign(b"manifest")), "signature": "AAAA"}
    with pytest.raises(BundleRefused, match="does not fit"):
        TRUST.verify(b"manifest", json.dumps(written).encode())


def test_without_any_key_a_signature_counts_as_none() -> None:
    signature = KEY.sign(b"manifest")
    assert Trust(allow_unsigned=True).verify(b"manifest", signature) is None
    with pytest.raises(BundleRefused, match="not a trusted one"):
        Trust().verify(b"manifest", signature)
