"""Ed25519 signatures over a manifest's bytes, and which keys a process trusts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tierline import BundleRefused, ConfigurationError, MissingExtra
from tierline_serving._durable import sync_folder, write_new
from tierline_serving._fields import canonical_json, parse_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALGORITHM: Final = "ed25519"
MAX_SIGNATURE_BYTES: Final = 4096
_SIGNATURE_FIELDS: Final = {"algorithm", "key_id", "signature"}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key: 32 raw bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise ConfigurationError(f"an Ed25519 public key has 32 bytes, not {len(self.raw)}")

    @property
    def key_id(self) -> str:
        """The first 16 hex digits of the raw key's sha256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @classmethod
    def from_file(cls, path: Path) -> PublicKey:
        """Read a PEM public key. Raises ConfigurationError naming the file."""
        _need_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"cannot read the public key {path}: {error}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"{path} is no PEM public key: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError(f"{path} is no Ed25519 key; make one: tierline bundle keygen")
        return cls(key.public_bytes_raw())


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key that signs manifests. Its repr shows the key id only."""

    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """Read a PEM private key. Raises ConfigurationError naming the file."""
        _need_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigurationError(f"cannot read the private key {path}: {error}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"{path} is no plain PEM private key: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(f"{path} is no Ed25519 key; make one: tierline bundle keygen")
        return cls(key)

    @classmethod
    def generate(cls) -> Signer:
        """A new key from the operating system's randomness, kept in memory only."""
        _need_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @property
    def public_key(self) -> PublicKey:
        """The key others need to verify."""
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, manifest: bytes) -> bytes:
        """The content of `manifest.sig` for a manifest's bytes."""
        signature = base64.b64encode(self._key.sign(manifest)).decode("ascii")
        return canonical_json(
            {"algorithm": ALGORITHM, "key_id": self.public_key.key_id, "signature": signature}
        )

    def save(self, private: Path, public: Path) -> None:
        """Write both keys as PEM, the private one readable by its owner alone (mode 0600).
        Raises ConfigurationError when either file exists: a key is never overwritten."""
        from cryptography.hazmat.primitives import serialization as pem

        secret = self._key.private_bytes(
            pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
        )
        shared = self._key.public_key().public_bytes(
            pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
        )
        for path in (private, public):
            if os.path.lexists(path):
                raise ConfigurationError(f"{path} exists; a key is never overwritten")
        try:
            write_new(private, secret, mode=0o600)
            write_new(public, shared, mode=0o644)
        except OSError as error:
            raise ConfigurationError(f"cannot write the key: {error}") from error
        sync_folder(private.parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose bundles are opened: those signed with one of ``keys``; with ``allow_unsigned`` also
    those nobody signed. Without any key, ``allow_unsigned`` takes signed bundles unverified:
    whoever could strip the signature gains nothing from its being refused."""

    keys: tuple[PublicKey, ...] = ()
    allow_unsigned: bool = False

    @classmethod
    def from_files(cls, paths: Iterable[Path], *, allow_unsigned: bool = False) -> Trust:
        """Trust the public keys in these PEM files. Raises ConfigurationError."""
        keys = tuple(PublicKey.from_file(path) for path in paths)
        return cls(keys=keys, allow_unsigned=allow_unsigned)

    def verify(self, manifest: bytes, signature: bytes | None) -> str | None:
        """The id of the key that signed, or None where an unverified bundle is allowed.
        Raises BundleRefused."""
        if signature is None:
            if self.allow_unsigned:
                return None
            raise BundleRefused(
                "it is not signed, and unsigned bundles are not allowed here; sign it: "
                "tierline bundle sign, or allow unsigned ones: --allow-unsigned"
            )
        key_id, raw = _parse_signature(signature)
        key = next((key for key in self.keys if key.key_id == key_id), None)
        if key is None:
            if self.allow_unsigned and not self.keys:
                return None
            known = ", ".join(sorted(key.key_id for key in self.keys)) or "none"
            raise BundleRefused(f"it is signed with key {key_id}, not a trusted one ({known})")
        _verify(key, raw, manifest)
        return key_id


def claimed_key(signature: bytes) -> str:
    """The key id that a `manifest.sig` claims; nothing is verified. Raises BundleRefused."""
    return _parse_signature(signature)[0]


def _parse_signature(data: bytes) -> tuple[str, bytes]:
    if len(data) > MAX_SIGNATURE_BYTES:
        raise BundleRefused(f"manifest.sig: {len(data)} bytes; at most {MAX_SIGNATURE_BYTES}")
    value = parse_json(data, "manifest.sig")
    if not isinstance(value, dict) or set(value) != _SIGNATURE_FIELDS:
        raise BundleRefused("manifest.sig: expected the fields algorithm, key_id and signature")
    if value["algorithm"] != ALGORITHM:
        raise BundleRefused(f"manifest.sig: algorithm {value['algorithm']!a} is not {ALGORITHM}")
    key_id, signature = value["key_id"], value["signature"]
    if not isinstance(key_id, str) or not isinstance(signature, str):
        raise BundleRefused("manifest.sig: key_id and signature must be texts")
    if len(key_id) != 16 or not set(key_id) <= set("0123456789abcdef"):
        raise BundleRefused("manifest.sig: key_id must be 16 hex digits")
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleRefused(f"manifest.sig: the signature is no base64: {error}") from error
    if base64.b64encode(raw).decode("ascii") != signature:  # bits that decoding would ignore
        raise BundleRefused("manifest.sig: the signature is no canonical base64")
    return key_id, raw


def _verify(key: PublicKey, signature: bytes, manifest: bytes) -> None:
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, manifest)
    except (InvalidSignature, ValueError) as error:
        raise BundleRefused(
            f"the signature of key {key.key_id} does not fit the manifest: one of them was altered"
        ) from error


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingExtra("serving", "signing and verifying bundles") from error
