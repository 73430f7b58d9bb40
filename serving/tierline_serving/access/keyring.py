"""Keeps the keys of a file at hand and notices when the file changes; makes and revokes keys."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tierline import ConfigurationError
from tierline_serving._durable import replace_file
from tierline_serving.access.keys import SECRET_BYTES, Key, KeyBook, digest_of, token_of
from tierline_serving.access.scopes import Scope

LOOK_EVERY: Final = 1.0  # seconds between looks at the file: how long a revoked key may live on
_MODE: Final = 0o600

_log = logging.getLogger("tierline.access")


class Keyring:
    """The keys in a file, as they are now. Raises ConfigurationError when it cannot begin.

    Later, a file that is damaged or gone changes nothing and is logged: the keys known last stay
    good until the file is readable again.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._book = read_keys(path)
        self._looked_at = clock()

    def book(self) -> KeyBook:
        """The keys that are good now, at most ``LOOK_EVERY`` seconds behind the file."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self.look()
        return self._book

    def look(self) -> None:
        """Read the file again if it changed."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._book = read_keys(self._path)
            self._stamp = stamp
        except ConfigurationError as error:
            _log.error("keys kept as they were", extra={"reason": str(error)})
        else:
            _log.info("keys read again", extra={"keys": len(self._book)})


def read_keys(path: Path) -> KeyBook:
    """The keys in a file. Raises ConfigurationError, also when others may write to it."""
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"others may write to the key file {path}: whoever can, lets himself in; chmod it 600"
        )
    return KeyBook.from_bytes(data)


def create_key(
    path: Path,
    scopes: frozenset[Scope],
    *,
    rate: float | None = None,
    burst: int = 1,
    note: str = "",
) -> tuple[Key, str]:
    """Add a new key to the file, which may not exist yet; returns it and its token.

    The token is nowhere else: who loses it needs a new key. Raises ConfigurationError.
    """
    token = token_of(key_id := secrets.token_hex(6), secrets.token_urlsafe(SECRET_BYTES))
    key = Key(
        id=key_id,
        digest=digest_of(token),
        scopes=scopes,
        rate=rate,
        burst=burst,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        note=note,
    )
    with _locked(path):
        book = read_keys(path) if path.exists() else KeyBook()
        replace_file(path, book.with_key(key).to_bytes(), mode=_MODE)
    return key, token


def revoke_key(path: Path, key_id: str) -> None:
    """Take a key out of the file. Raises ConfigurationError when it is not there."""
    with _locked(path):
        replace_file(path, read_keys(path).without(key_id).to_bytes(), mode=_MODE)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; the lock is a file beside, because the key file is replaced whole."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"cannot read the key file {path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino
