"""The HTTP headers of a call: their names, how a client writes them and a server reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from tierline._config import Criticality
from tierline._exceptions import BadRequest
from tierline.deadline import DEADLINE_HEADER, Deadline

ATTEMPT_HEADER: Final = "x-tierline-attempt"
REQUEST_ID_HEADER: Final = "x-request-id"
TRACEPARENT_HEADER: Final = "traceparent"
CRITICALITY_HEADER: Final = "x-tierline-criticality"  # not sent for a default call
QUEUE_HEADER: Final = "x-tierline-queue-ms"  # an answer's: what a newcomer would wait there now
AUTHORIZATION_HEADER: Final = "authorization"
CONTENT_TYPE_HEADER: Final = "content-type"
CONTENT_TYPE: Final = "application/x-tierline"
BODY_ALIGNMENT: Final = 8  # bytes: a head of so many or a multiple lets its frame be read in place

MAX_ATTEMPT: Final = 1000
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # printable ASCII without blanks: safe in any log
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_ATTEMPT = re.compile(r"[0-9]{1,4}")
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


_CRITICALITIES = {kind.value: kind for kind in Criticality}


class CallHeaders(NamedTuple):
    """What the headers of an attempt say; None for what was not sent. ``attempt`` starts at 1.
    Give them by name."""

    deadline: Deadline | None = None
    attempt: int = 1
    request_id: str | None = None
    traceparent: str | None = None
    criticality: Criticality = Criticality.DEFAULT

    def write(self, now: float) -> list[tuple[str, str]]:
        """The headers to send at ``now`` (monotonic seconds), content type included."""
        headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE), (ATTEMPT_HEADER, str(self.attempt))]
        if self.deadline is not None:
            headers.append((DEADLINE_HEADER, self.deadline.header(now)))
        if self.request_id is not None:
            headers.append((REQUEST_ID_HEADER, self.request_id))
        if self.traceparent is not None:
            headers.append((TRACEPARENT_HEADER, self.traceparent))
        if self.criticality is not Criticality.DEFAULT:
            headers.append((CRITICALITY_HEADER, self.criticality.value))
        return headers


def read_headers(headers: Mapping[str, str], *, now: float) -> CallHeaders:
    """Read the headers of an attempt (names in lower case) that arrived at ``now``.

    Raises BadRequest for a deadline, attempt, request id or criticality that is malformed; a
    malformed traceparent is dropped, as W3C Trace Context demands.
    """
    remaining = headers.get(DEADLINE_HEADER)
    attempt = headers.get(ATTEMPT_HEADER, "1")
    request_id = headers.get(REQUEST_ID_HEADER)
    traceparent = headers.get(TRACEPARENT_HEADER)
    said = headers.get(CRITICALITY_HEADER)
    if remaining is not None and not _NUMBER.fullmatch(remaining):
        raise BadRequest(f"{DEADLINE_HEADER} must be milliseconds, e.g. 80.000")
    if not _ATTEMPT.fullmatch(attempt) or not 1 <= int(attempt) <= MAX_ATTEMPT:
        raise BadRequest(f"{ATTEMPT_HEADER} must be an integer from 1 to {MAX_ATTEMPT}")
    if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
        raise BadRequest(f"{REQUEST_ID_HEADER} must be 1 to 128 printable ASCII characters")
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    criticality = Criticality.DEFAULT if said is None else _CRITICALITIES.get(said)
    if criticality is None:
        raise BadRequest(f"{CRITICALITY_HEADER} must be one of {[*_CRITICALITIES]}")
    deadline = None if remaining is None else Deadline.from_header(remaining, now=now)
    return CallHeaders(deadline, int(attempt), request_id, traceparent, criticality)
