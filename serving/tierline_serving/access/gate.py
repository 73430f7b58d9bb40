"""Lets a request in or refuses it: 401 without a good key, 403 without the scope, 429 too often."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from tierline_serving.access.keyring import Keyring
from tierline_serving.access.keys import Key
from tierline_serving.access.rate import RateLimit
from tierline_serving.access.scopes import needed_scope
from tierline_serving.front.calls import Caller
from tierline_serving.front.exchange import Refused

_CHALLENGE: Final = ((b"www-authenticate", b"Bearer"),)
_SCHEME: Final = b"bearer"


class Gate:
    """Access control of one endpoint. ``clock`` tells monotonic seconds."""

    def __init__(self, keyring: Keyring, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keyring = keyring
        self._clock = clock
        self._limits: dict[str, RateLimit] = {}

    def admit(
        self, path: str, raw_path: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> Caller | None:
        """Who asks, None where no key is needed. Raises Refused; it quotes nothing of the key."""
        scope = needed_scope(path, raw_path)
        if scope is None:
            return None
        token = _token(headers)
        key = self._keyring.book().find(token) if token else None
        if key is None:
            why = "is not good (any more)" if token else "is missing"
            raise Refused(
                "unauthenticated",
                f"the bearer key {why}; send Authorization: Bearer KEY",
                headers=_CHALLENGE,
            )
        if scope not in key.scopes:
            raise Refused("not_permitted", f"key {key.id} lacks the scope {scope.value!r}")
        self._check_rate(key)
        return Caller(key.id)

    def look(self) -> None:
        """Read the key file again now, if it changed."""
        self._keyring.look()

    def _check_rate(self, key: Key) -> None:
        if key.rate is None:
            return
        now = self._clock()
        limit = self._limits.get(key.id)
        if limit is None or (limit.rate, limit.burst) != (key.rate, key.burst):
            if len(self._limits) > len(self._keyring.book()):
                self._limits.clear()  # revoked keys leave theirs behind
            limit = self._limits[key.id] = RateLimit(key.rate, key.burst, now)
        wait = limit.take(now)
        if wait is not None:
            message = f"key {key.id} may ask {key.rate:g} times a second; try later"
            raise Refused("overloaded", message, retry_after=wait)


def _token(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The bearer token; empty when there is none, or more than one to choose from."""
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1:
        return ""
    scheme, _, token = found[0].partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == _SCHEME else ""
