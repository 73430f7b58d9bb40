"""Bearer keys: what a key file holds, how a key is made, and whose key a token is. Pure.

A key is 256 random bits, so its plain SHA-256 tells nothing about it: stretching, which protects
passwords people choose, would only slow every request down.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tierline import ConfigurationError
from tierline_serving.access.scopes import Scope

FORMAT: Final = 1
PREFIX: Final = "tlk"
MAX_KEYS: Final = 10_000
MAX_TOKEN: Final = 256  # characters; longer ones are not hashed
SECRET_BYTES: Final = 32

_ID = re.compile(r"[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY: Final = hashlib.sha256(b"nobody's key").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key: never the key itself. ``rate`` None: as often as it likes.

    ``rate`` is in requests a second, ``burst`` how many may come at once.
    """

    id: str
    digest: str = field(repr=False)  # sha256 of the token, in hex
    scopes: frozenset[Scope]
    rate: float | None = None
    burst: int = 1
    created: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or not _DIGEST.fullmatch(self.digest):
            raise ConfigurationError("a key has an id of 12 and a digest of 64 hex digits")
        if not self.scopes:
            raise ConfigurationError(f"key {self.id} has no scope")
        if self.rate is not None and not (self.rate > 0 and math.isfinite(self.rate)):
            raise ConfigurationError(f"key {self.id}: rate must be positive, got {self.rate!r}")
        if self.burst < 1:
            raise ConfigurationError(f"key {self.id}: burst must be at least 1, got {self.burst}")


class KeyBook:
    """The keys that are good now."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def listed(self) -> list[Key]:
        """Every key, oldest first."""
        return list(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> Key | None:
        """Whose key this is, or None. Takes as long for an unknown id as for a wrong secret."""
        prefix, _, rest = token.partition("_")
        key = self._keys.get(rest.partition("_")[0]) if prefix == PREFIX else None
        known = _NOBODY if key is None else key.digest
        matches = hmac.compare_digest(digest_of(token), known)
        return key if matches else None

    def with_key(self, key: Key) -> KeyBook:
        """The book and one more key. Raises ConfigurationError when it is full."""
        if len(self._keys) >= MAX_KEYS:
            raise ConfigurationError(f"a key file holds at most {MAX_KEYS} keys; revoke some")
        return KeyBook([*self._keys.values(), key])

    def without(self, key_id: str) -> KeyBook:
        """The book without one key. Raises ConfigurationError when it is not in it."""
        if key_id not in self._keys:
            raise ConfigurationError(f"there is no key {key_id!r}; `tierline keys list` shows them")
        return KeyBook(key for key in self._keys.values() if key.id != key_id)

    def to_bytes(self) -> bytes:
        """The key file's content."""
        rows = [
            {
                "id": key.id,
                "sha256": key.digest,
                "scopes": sorted(scope.value for scope in key.scopes),
                "rate": key.rate,
                "burst": key.burst,
                "created": key.created,
                "note": key.note,
            }
            for key in self._keys.values()
        ]
        return json.dumps({"format": FORMAT, "keys": rows}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyBook:
        """Read a key file's content. Raises ConfigurationError, which quotes nothing of it."""
        try:
            document = json.loads(data)
        except ValueError:
            raise ConfigurationError("the key file is not JSON") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ConfigurationError(f"the key file is not of format {FORMAT}")
        rows = document.get("keys")
        if not isinstance(rows, list) or len(rows) > MAX_KEYS:
            raise ConfigurationError(f"the key file must have a list of at most {MAX_KEYS} keys")
        keys = [_key(row, number) for number, row in enumerate(rows, start=1)]
        if len({key.id for key in keys}) != len(keys):
            raise ConfigurationError("the key file has one id twice")
        return cls(keys)


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token[:MAX_TOKEN].encode("utf-8", "replace")).hexdigest()


def token_of(key_id: str, secret: str) -> str:
    """The text a caller sends as its bearer token."""
    return f"{PREFIX}_{key_id}_{secret}"


def _key(row: object, number: int) -> Key:
    wrong = ConfigurationError(f"entry {number} of the key file is malformed")
    if not isinstance(row, dict):
        raise wrong
    texts = {name: row.get(name, "") for name in ("id", "sha256", "created", "note")}
    scopes, rate, burst = row.get("scopes"), row.get("rate"), row.get("burst", 1)
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(scopes, list):
        raise wrong
    if type(burst) is not int or not (rate is None or type(rate) in (int, float)):
        raise wrong
    try:
        granted = frozenset(Scope(scope) for scope in scopes)
    except ValueError:
        raise wrong from None
    return Key(
        id=texts["id"],
        digest=texts["sha256"],
        scopes=granted,
        rate=rate,
        burst=burst,
        created=texts["created"],
        note=texts["note"],
    )
