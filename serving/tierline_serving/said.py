"""What the headers of a call say, as an endpoint uses it from its arrival to its answer."""

from __future__ import annotations

import math
from typing import Final

from tierline import Criticality
from tierline.wire.headers import CallHeaders

NEVER: Final = math.inf
_DEFAULT: Final = Criticality.DEFAULT


class Said:
    """``deadline_at`` is when the caller gives up, on the endpoint's monotonic clock in seconds;
    NEVER where he did not say."""

    __slots__ = ("criticality", "deadline_at", "request_id", "traceparent")

    def __init__(
        self,
        deadline_at: float = NEVER,
        request_id: str | None = None,
        traceparent: str | None = None,
        criticality: Criticality = _DEFAULT,
    ) -> None:
        self.deadline_at = deadline_at
        self.request_id = request_id
        self.traceparent = traceparent
        self.criticality = criticality


def said_by(headers: CallHeaders) -> Said:
    """The same as the wire's type."""
    at = NEVER if headers.deadline is None else headers.deadline.at
    return Said(at, headers.request_id, headers.traceparent, headers.criticality)
