"""Faults in what an answer says: wrong scores, no numbers, another's answer, another version. Pure.

Works on whole HTTP/1.1 answers with a Content-Length, as our nodes send them; whatever else passes
by is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from tierline import FrameError
from tierline.wire import ScoreReply, decode_reply, encode_reply
from tierline.wire.headers import CONTENT_TYPE

FAULTS = ("nan", "infinite", "short", "wrong", "swapped", "stale")
MAX_HEAD = 65536  # bytes; more is no answer of ours
STALE = "stale@000000000000"  # the bundle a stale answer names

_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$")
_TYPE = re.compile(rb"(?im)^content-type:[ \t]*" + re.escape(CONTENT_TYPE.encode()))
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


@dataclass(slots=True)
class Answers:
    """The answers of one connection, taken apart and put together again.

    ``shelf`` is shared by the connections of one proxy: an answer put there by one is given to the
    next, which is how answers get swapped.
    """

    shelf: list[bytes] = field(default_factory=list)
    _held: bytes = b""
    _transparent: bool = False

    def passed(self, data: bytes, fault: str) -> bytes:
        """The bytes to pass on now, with the fault in every score answer that is complete; the
        rest is held until it is."""
        if self._transparent:
            return data
        self._held += data
        ready = []
        while (answer := self._take()) is not None:
            ready.append(self._damaged(answer, fault))
        if self._transparent:
            ready.append(self._held)
            self._held = b""
        return b"".join(ready)

    def released(self) -> bytes:
        """What was held, when the fault is over or the connection ends."""
        held, self._held = self._held, b""
        return held

    def _take(self) -> bytes | None:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            self._transparent = len(self._held) > MAX_HEAD
            return None
        head = self._held[: end + 4]
        length = _LENGTH.search(head)
        if length is None or _STATUS.match(head) is None:
            self._transparent = True
            return None
        whole = len(head) + int(length[1])
        if len(self._held) < whole:
            return None
        answer, self._held = self._held[:whole], self._held[whole:]
        return answer

    def _damaged(self, answer: bytes, fault: str) -> bytes:
        end = answer.index(b"\r\n\r\n") + 4
        head, body = answer[:end], answer[end:]
        status = _STATUS.match(head)
        if status is None or status[1] != b"200" or _TYPE.search(head) is None:
            return answer
        if fault == "swapped":
            self.shelf.append(answer)
            return self.shelf.pop(0) if len(self.shelf) > 1 else answer
        try:
            changed = b"".join(
                bytes(part) for part in encode_reply(damaged(decode_reply(body), fault))
            )
        except FrameError:
            return answer  # no reply of ours, or what our encoder refuses to write
        return _LENGTH.sub(b"content-length: %d\r" % len(changed), head) + changed


def damaged(reply: ScoreReply, fault: str) -> ScoreReply:
    """The reply with one fault in it (not "swapped", which takes two)."""
    scores = np.array(reply.scores, np.float32)
    match fault:
        case "nan":
            scores[: max(1, len(scores) // 2)] = np.nan
        case "infinite":
            scores[:1] = np.inf
        case "short":
            shorter = None if reply.items is None else reply.items[:-1]
            return reply._replace(scores=scores[:-1], items=shorter)
        case "wrong":
            return reply._replace(scores=np.ascontiguousarray(scores[::-1]) + np.float32(0.5))
        case "stale":
            return reply._replace(bundle=STALE)
        case _:
            raise ValueError(f"{fault!r} is no fault; known: {', '.join(FAULTS)}")
    return reply._replace(scores=scores)
