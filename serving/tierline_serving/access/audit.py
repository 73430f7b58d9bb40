"""An audit log that shows when it was edited: every line holds the hash of the one before.

What a chain cannot show alone is that its last lines were cut off. Keep its newest hash somewhere
else (``verify`` prints it, and takes it back as ``head``), and that shows too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tierline import TierlineError

BEGINNING: Final = "0" * 64  # what the first line names as the hash before it
MAX_LINE: Final = 64 * 1024  # bytes
_FIELDS: Final = frozenset(
    {"seq", "at", "actor", "action", "subject", "detail", "previous", "hash"}
)


class AuditBroken(TierlineError):
    """The log was edited, a line in it was torn, or it cannot be read or written; the message says
    which."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A log whose chain holds: how many lines, and the hash of the newest."""

    lines: int
    head: str


class AuditLog:
    """Appends lines to one file; several processes may do so at once."""

    def __init__(self, path: Path, *, now: Callable[[], datetime] | None = None) -> None:
        self._path = path
        self._now = now or (lambda: datetime.now(UTC))

    def append(
        self, *, actor: str, action: str, subject: str, detail: Mapping[str, str] | None = None
    ) -> str:
        """Write one line and flush it to the disk; returns its hash.

        Raises AuditBroken when the newest line is damaged, nothing is chained to it then, and when
        the disk does not take the line: of a line written in part nothing is left.
        """
        try:
            return self._append(actor, action, subject, dict(detail or {}))
        except OSError as error:
            raise AuditBroken(f"cannot write to {self._path}: {error.strerror}") from error

    def _append(self, actor: str, action: str, subject: str, detail: dict[str, str]) -> str:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            seq, previous = _newest(descriptor, self._path)
            record: dict[str, object] = {
                "seq": seq + 1,
                "at": self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "actor": actor,
                "action": action,
                "subject": subject,
                "detail": detail,
                "previous": previous,
            }
            record["hash"] = chained(record)
            line = _canonical(record) + b"\n"
            if len(line) > MAX_LINE:
                raise AuditBroken(f"an audit line may have at most {MAX_LINE} bytes")
            _write(descriptor, line)
        finally:
            os.close(descriptor)
        return str(record["hash"])


def verify(path: Path, *, head: str | None = None) -> Verified:
    """Check every line and the chain through them; with ``head``, that this hash is in it.

    Raises AuditBroken naming the first line that does not hold.
    """
    lines, previous = 0, BEGINNING
    seen_head = head is None or head == BEGINNING
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                record = _record(line, f"line {lines + 1} of {path}")
                if record["seq"] != lines + 1 or record["previous"] != previous:
                    raise AuditBroken(
                        f"line {lines + 1} of {path} does not follow the one before it: "
                        "lines were removed, added or moved"
                    )
                lines, previous = lines + 1, str(record["hash"])
                seen_head = seen_head or previous == head
    except OSError as error:
        raise AuditBroken(f"cannot read {path}: {error.strerror}") from error
    if not seen_head:
        raise AuditBroken(f"the line with hash {head} is no longer in {path}: its end was cut off")
    return Verified(lines, previous)


def chained(record: Mapping[str, object]) -> str:
    """The hash of a line: of all its fields but the hash, the previous one's hash among them."""
    content = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _record(line: bytes, where: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError:
        raise AuditBroken(f"{where} is torn or no JSON") from None
    if not isinstance(record, dict) or record.keys() != _FIELDS:
        raise AuditBroken(f"{where} is no audit line")
    if record["hash"] != chained(record) or _canonical(record) + b"\n" != line:
        raise AuditBroken(f"{where} was edited: its content does not have its hash")
    return record


def _newest(descriptor: int, path: Path) -> tuple[int, str]:
    """The sequence number and hash of the newest line."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return 0, BEGINNING
    tail = os.pread(descriptor, min(size, MAX_LINE + 1), max(0, size - MAX_LINE - 1))
    start = tail.rfind(b"\n", 0, -1) + 1
    record = _record(tail[start:], f"the newest line of {path}")
    return int(str(record["seq"])), str(record["hash"])


def _write(descriptor: int, line: bytes) -> None:
    """The whole line, or nothing of it: a torn one would be the last for ever."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _canonical(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
